"""The experiments by name; importing this costs nothing, families are imported when used."""

import importlib
import json
from dataclasses import dataclass
from importlib import resources
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Experiment:
    """One entry of ``metarl list``.

    Attributes:
        name: as on the command line; its presets stand in ``presets/<name>.json``.
        family: names the modules ``configs.<family>`` (``Config``, ``EvaluateOptions``; no torch),
            ``<family>.learner`` (``build(config, machine, ranks)``) and ``plots.<family>``
            (``figures(runs, curves, lines, shown, options, alone=False)``,
            ``shipped_groups(runs)``, ``notes(runs)``).
        summary: one line.
        job_minutes: what ``make train`` trains for; None runs the preset to its end.
    """

    name: str
    family: str
    summary: str
    job_minutes: float | None = None

    def configs(self) -> ModuleType:
        """Module of the configuration dataclasses; imports no torch."""
        return importlib.import_module(f".configs.{self.family}", __package__)

    def learner(self) -> ModuleType:
        """Module with ``build(config, machine, ranks)``."""
        return importlib.import_module(f".{self.family}.learner", __package__)

    def plots(self) -> ModuleType:
        """Module with ``figures``, and what else ``metarl report`` puts on the page."""
        return importlib.import_module(f".plots.{self.family}", __package__)

    def presets(self) -> dict[str, dict[str, Any]]:
        """Preset name -> the values that differ from the configuration's defaults."""
        return package_data("presets", self.name)


_EXPERIMENTS = (
    Experiment("sinusoid", "sinusoid", "regress A sin(x - phase) from 5 to 20 points"),
    Experiment("navigation", "rl", "move a point to a goal it cannot see", 1.5),
    Experiment("cheetah-velocity", "rl", "run at a goal velocity", 5.0),
    Experiment("cheetah-direction", "rl", "run forwards or backwards", 5.0),
    Experiment("ant-velocity", "rl", "walk on four legs at a goal velocity", 60.0),
    Experiment("ant-direction", "rl", "walk on four legs forwards or backwards", 90.0),
    Experiment("ant-goal", "rl", "walk on four legs to a goal position", 60.0),
    Experiment("omniglot", "images", "tell characters apart from one or five drawings of each"),
    Experiment("mini-imagenet", "images", "tell objects apart from one or five photographs"),
    Experiment("maml", "rl", "any gymnasium environment with tasks (--env.id)"),
)
EXPERIMENTS = {experiment.name: experiment for experiment in _EXPERIMENTS}


def package_data(folder: str, name: str) -> dict[str, Any]:
    """A JSON file of the package: ``presets/<name>.json`` or ``paper/<name>.json``."""
    text = (resources.files(__package__) / folder / f"{name}.json").read_text(encoding="utf-8")
    value: dict[str, Any] = json.loads(text)
    return value
