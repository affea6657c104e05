"""Evaluation of a run's checkpoint, and paired comparison of runs, as JSON."""

import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import metarl
from metarl.errors import InputError
from metarl.runs import RunRecord, read_config, read_run
from metarl.runs.faults import fault_point

from .catalog import Experiment
from .evaluations import FIELDS, digest
from .family import Learner, mean_and_ci95
from .machine import Machine, at_most_all_cores, resolve
from .options import find_experiment
from .state import put_params
from .stored import stored

RESAMPLES = 10_000
# What tells the tasks of one seed apart; families write those that they have.
TASK_VARIANTS = ("task", "physics", "ways", "shots")
# What evaluations do not say and makes other tasks or other returns; families have some of them.
TASK_SETTINGS = ("dataset", "rotate", "env.id", "env.horizon", "env.sparse")


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
    return find_experiment(str(read_config(path).get("experiment")))


def load(path: Path, *, last: bool = False, device: str | None = None) -> Loaded:
    """Read a run and build its learner; nothing is compiled.

    Args:
        path: run directory.
        last: its last checkpoint rather than the best by validation.
        device: see `find_device`; by default the run's own, or the CPU where that is not present.

    Raises:
        InputError: no run, no checkpoint yet, one of another version's experiment, or no such
            device.
        CheckpointError: no checkpoint verifies.
    """
    experiment = experiment_of(path)
    record = read_run(path, last=last)
    config, asked, seed = stored(path, experiment, record.config)
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


def check_same_tasks(one: Loaded, other: Loaded) -> None:
    """Refuse to compare runs whose tasks are made otherwise, whatever they are drawn with.

    Raises:
        InputError: naming the difference.
    """
    path, beside = other.record.path, one.record.path
    if other.experiment != one.experiment:
        raise InputError(
            f"--compare {path}: is a run of {other.experiment.name}, {beside} of "
            f"{one.experiment.name}"
        )
    theirs, ours = _task_settings(other.config), _task_settings(one.config)
    for name, value in theirs.items():
        if value != ours[name]:
            raise InputError(
                f"--compare {path}: {name} is {value}, that of {beside} is {ours[name]}"
            )


def _task_settings(config: Any) -> dict[str, Any]:
    values = asdict(config)
    values |= {f"env.{name}": value for name, value in values.get("env", {}).items()}
    return {name: values[name] for name in TASK_SETTINGS if name in values}


def compare(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Paired difference ``one - other`` of the means over the same tasks, by bootstrap.

    Returns:
        ``mean`` and ``low``, ``high`` (percentiles 2.5 and 97.5 of `RESAMPLES` resamples over
        tasks) after each number of steps that both have.

    Raises:
        InputError: the evaluations are not of the same tasks.
    """
    for name in ("experiment", "metric", "task_seed", "tasks"):
        if one[name] != other[name]:
            raise InputError(
                f"--compare {other['run']}: {name} is {other[name]}, that of {one['run']} is "
                f"{one[name]}"
            )
    # One seed draws other tasks where runs have other ranges, physics, ways or shots.
    for name in TASK_VARIANTS:
        if one["variants"].get(name) != other["variants"].get(name):
            raise InputError(
                f"--compare {other['run']}: its tasks are not those of {one['run']}: {name} differs"
            )
    steps = min(one["steps"], other["steps"])
    ours, theirs = (np.asarray(e["per_task"][: steps + 1], dtype=float) for e in (one, other))
    difference = ours - theirs
    rng = metarl.stream(0, "bootstrap")
    tasks = difference.shape[1]
    weights = rng.multinomial(tasks, np.full(tasks, 1 / tasks), RESAMPLES) / tasks
    with np.errstate(all="ignore"):
        low, high = np.percentile(weights @ difference.T, (2.5, 97.5), axis=0)
    value = {
        "run": other["run"],
        "iteration": other["iteration"],
        "mean": difference.mean(1).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }
    finite: dict[str, Any] = finite_or_null(value)
    return finite


def default_file(path: Path, options: Any, *, last: bool, compared: bool) -> Path:
    """``evaluation.json`` for the family's default protocol, a telling name for any other."""
    defaults = asdict(type(options)())
    parts = ["evaluation"]
    for name, value in asdict(options).items():
        # Where the data lie is no part of the protocol.
        if value != defaults[name] and name != "data":
            text = re.sub(r"[^\w.+-]+", "_", str(value)).strip("_")
            parts.append(f"{name.replace('_', '-')}-{text}")
    parts += ["last"] * last + ["compare"] * compared
    return path / ("-".join(parts) + ".json")
