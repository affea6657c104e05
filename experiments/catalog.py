"""The experiments by name; importing this costs nothing, families are imported when used."""

import difflib
import importlib
import json
from dataclasses import dataclass, replace
from importlib import resources
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Experiment:
    """One entry of ``metarl list``.

    Attributes:
        name: as on the command line; presets stand in ``presets/<name>.json``.
        family: names the modules ``configs.<family>``, ``<family>`` and ``plots.<family>``.
        summary: one line.
        job_minutes: what ``make train`` trains for; None runs the preset to its end.
    """

    name: str
    family: str
    summary: str
    job_minutes: float | None = None


_EXPERIMENTS = (
    Experiment("sinusoid", "sinusoid", "regress A sin(x - phase) from 5 to 20 points"),
)
EXPERIMENTS = {experiment.name: experiment for experiment in _EXPERIMENTS}


def find(name: str) -> Experiment:
    """Experiment of that name.

    Raises:
        ValueError: there is none; the message names the closest.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    close = difflib.get_close_matches(name, EXPERIMENTS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "see `metarl list`"
    raise ValueError(f"EXPERIMENT: there is no {name!r}; {hint}")


def config_module(experiment: Experiment) -> ModuleType:
    """Module with the family's ``Config`` and ``EvaluateOptions``; imports no torch."""
    return importlib.import_module(f".configs.{experiment.family}", __package__)


def family_module(experiment: Experiment) -> ModuleType:
    """Module with the family's ``build(config, machine)``."""
    return importlib.import_module(f".{experiment.family}", __package__)


def plots_module(experiment: Experiment) -> ModuleType:
    """Module with the family's ``figures(runs)``."""
    return importlib.import_module(f".plots.{experiment.family}", __package__)


def presets(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Preset name -> the values that differ from the configuration's defaults."""
    return data("presets", experiment.name)


def data(folder: str, name: str) -> dict[str, Any]:
    """A JSON file of the package: ``presets/<name>.json`` or ``paper/<name>.json``."""
    text = (resources.files(__package__) / folder / f"{name}.json").read_text(encoding="utf-8")
    value: dict[str, Any] = json.loads(text)
    return value


def preset(experiment: Experiment, name: str) -> Any:
    """Configuration of the preset ``name``.

    Raises:
        ValueError: the experiment has no such preset.
    """
    known = presets(experiment)
    if name not in known:
        raise ValueError(
            f"--preset: {experiment.name} has no {name!r}; it has {', '.join(known)}"
        )
    return overlay(config_module(experiment).Config(), known[name])


def overlay(config: Any, values: dict[str, Any]) -> Any:
    """Copy of a frozen dataclass with ``values`` (nested dicts for nested dataclasses) in place.

    Raises:
        ValueError: a name that the dataclass does not have.
    """
    known = vars(config)
    for name in values:
        if name not in known:
            raise ValueError(f"unknown field {name!r} of {type(config).__name__}")
    return replace(
        config,
        **{
            name: overlay(known[name], value)
            if isinstance(value, dict)
            else (tuple(value) if isinstance(value, list) else value)
            for name, value in values.items()
        },
    )
