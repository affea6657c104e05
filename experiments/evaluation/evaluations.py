"""Evaluations that were written to a file: whose they are, and whether they are whole."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from metarl.errors import InputError

from ..catalog import EXPERIMENTS
from ..family import mean_and_ci95
from ..words import count

FIELDS = (
    "experiment",
    "run",
    "iteration",
    "metric",
    "task_seed",
    "tasks",
    "steps",
    "mean",
    "ci95",
    "per_task",
    "variants",
)
# Of a row's largest number: `per_task` has six digits.
ROUNDING = 1e-5


def digest(params: Mapping[str, Tensor]) -> str:
    """Short SHA-256 of parameters: what an evaluation is of."""
    found = hashlib.sha256()
    for name in sorted(params):
        found.update(name.encode() + b"\0" + params[name].cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def tasks_told(value: Mapping[str, Any]) -> str:
    """The tasks of an evaluation in words: how many, and where they come from."""
    if value["task_seed"] == "paper":
        return f"{count(value['tasks'], 'task')}, the paper's goals"
    told = f"{count(value['tasks'], 'task')}, seed {value['task_seed']}"
    task_range = value["variants"].get("task_range")
    return told if task_range is None else f"{told}, range {task_range}"


def check_evaluation(value: Mapping[str, Any], experiment: str, path: Path) -> None:
    """Refuse an evaluation that is partial, of another experiment, or not of its own tasks.

    Raises:
        InputError: naming the file.
    """
    try:
        _check(value, experiment)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} is damaged: {error}; remove it, `metarl evaluate` makes it"
        ) from None


def _check(value: Mapping[str, Any], experiment: str) -> None:
    missing = [name for name in FIELDS if name not in value]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    if value["experiment"] != experiment:
        raise ValueError(f"it is of {value['experiment']}, the run of {experiment}")
    config = EXPERIMENTS[experiment].configs().Config
    if value["metric"] != config.metric:
        raise ValueError(f"its metric is {value['metric']!r}")
    per_task = np.array(value["per_task"], dtype=float)
    shape = (value["steps"] + 1, value["tasks"])
    if per_task.shape != shape or 0 in shape:
        raise ValueError(f"per_task is {per_task.shape}, steps and tasks say {shape}")
    if not isinstance(value["variants"], dict):
        raise ValueError("variants is not an object")
    for name in config.counts:
        if type(value["variants"].get(name)) is not int:
            raise ValueError(f"variants has no number of {name}")
    scale = np.abs(np.where(np.isfinite(per_task), per_task, 0)).max(1)
    for name, found in mean_and_ci95(per_task).items():
        told = np.array(value[name], dtype=float)
        if told.shape != shape[:1]:
            raise ValueError(f"{name} has not one number for each of {shape[0]} points")
        if not np.all(np.abs(told - found) <= ROUNDING * scale + 1e-12, where=np.isfinite(found)):
            raise ValueError(f"{name} is not that of per_task")
        if not np.array_equal(np.isfinite(told), np.isfinite(found)):
            raise ValueError(f"{name} is null where per_task is not, or the other way round")
