"""Evaluation of a run's checkpoint, as JSON."""

import hashlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from metarl.errors import InputError
from metarl.runs import RunRecord, read_config, read_run
from metarl.runs.faults import fault_point

from ..catalog import Experiment
from ..family import Learner, mean_and_ci95
from ..machine import Machine, at_most_all_cores, resolve
from ..options import find_experiment
from ..progress import waiting
from ..state import put_params
from ..stored import stored
from .evaluations import FIELDS, digest


class Loaded(NamedTuple):
    """A run, its learner as configured, and the parameters of its checkpoint."""

    experiment: Experiment
    record: RunRecord
    config: Any
    learner: Learner
    params: dict[str, torch.Tensor]


def experiment_of(path: Path) -> Experiment:
    """Experiment of a run.

    Raises:
        InputError: no run, or one whose config names no experiment.
    """
    name = read_config(path).get("experiment")
    if name is None:
        raise InputError(
            f"{path} is no run of `metarl train`, and only you know what it holds: read it with "
            "metarl.runs.read_run"
        )
    return find_experiment(str(name))


def load(
    path: Path, *, last: bool = False, device: str | None = None, data: str | None = None
) -> Loaded:
    """Read a run and build its learner; nothing is compiled.

    Args:
        path: run directory.
        last: its last checkpoint rather than the best by validation.
        device: see `find_device`; by default the run's own, or the CPU where that is not present.
        data: root of an image data set; by default the run's own.

    Raises:
        InputError: no run, no checkpoint yet, one of another version's experiment, no such
            device, or data for an experiment that reads none.
        CheckpointError: no checkpoint verifies.
    """
    experiment = experiment_of(path)
    record = read_run(path, last=last)
    config, asked, seed = stored(path, experiment, record.config)
    if data is not None:
        if not hasattr(config, "data"):
            raise InputError(f"--data: {experiment.name} reads no data set")
        config = replace(config, data=data)
    machine = _at_hand(replace(asked, compile="off"), device)
    torch.set_num_threads(machine.threads)
    learner: Learner = experiment.learner().build(config, machine)
    params = learner.params(seed)
    try:
        put_params(params, record.snapshot.params)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    params = {name: value.detach() for name, value in params.items()}
    return Loaded(experiment, record, config, learner, params)


def _at_hand(machine: Machine, device: str | None) -> Machine:
    """The machine of a run, as far as there is one here."""
    machine = at_most_all_cores(machine)
    if device is not None:
        return resolve(replace(machine, device=device), threads=1)
    try:
        return resolve(machine, threads=1)
    except InputError:
        return replace(machine, device="cpu")


def evaluate(loaded: Loaded, options: Any) -> dict[str, Any]:
    """Evaluate as `options` (the family's ``EvaluateOptions``) say; the JSON of house style.

    Numbers that are not finite are null.
    """
    fault_point("evaluate:tasks")
    with waiting(f"evaluating {loaded.record.path}"):
        result = loaded.learner.evaluate(loaded.params, options)
    variants = {**result.variants, "parameters": digest(loaded.params)}
    if loaded.record.metrics:
        variants["trained_iterations"] = loaded.record.metrics[-1]["iteration"]
    value = {
        "experiment": loaded.experiment.name,
        "run": str(loaded.record.path),
        "iteration": loaded.record.snapshot.iteration,
        "metric": result.metric,
        "task_seed": options.task_seed if result.task_seed is None else result.task_seed,
        "tasks": result.per_task.shape[1],
        "steps": len(result.per_task) - 1,
        **mean_and_ci95(result.per_task),
        "per_task": [[float(f"{x:.6g}") for x in row] for row in result.per_task],
        "variants": variants,
    }
    finite: dict[str, Any] = finite_or_null({name: value[name] for name in FIELDS})
    return finite


def finite_or_null(value: Any) -> Any:
    """JSON with null in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def default_file(path: Path, options: Any, *, last: bool, compare: Sequence[str]) -> Path:
    """``evaluation.json`` for the family's default protocol, a telling name for any other."""
    defaults = asdict(type(options)())
    parts = ["evaluation"]
    for name, value in asdict(options).items():
        if value != defaults[name]:
            parts.append(f"{name.replace('_', '-')}-{_plain(value)}")
    if last:
        parts.append("last")
    if compare:
        runs = "+".join(map(_plain, compare))
        # Names of files end at 255 bytes.
        fits = len(os.fsencode(runs)) <= 100
        short = runs if fits else hashlib.sha256(runs.encode()).hexdigest()[:16]
        parts.append(f"compare-{short}")
    return path / ("-".join(parts) + ".json")


def _plain(value: Any) -> str:
    return re.sub(r"[^\w.+-]+", "_", str(value)).strip("_")
