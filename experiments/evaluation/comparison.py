"""Whether runs can be compared, and the paired difference of their evaluations."""

from typing import Any

import numpy as np

import metarl
from metarl.errors import InputError

from .evaluate import Loaded, finite_or_null

RESAMPLES = 10_000
# Numbers of resampled tasks that are held at once.
BLOCK = 10_000_000
# What tells the tasks of one seed apart; families write those that they have.
TASK_VARIANTS = ("task", "physics", "ways", "shots")


def check_comparable(one: Loaded, other: Loaded, options: Any) -> None:
    """Refuse to compare runs whose tasks are made otherwise, before any time goes into it.

    Args:
        one: the run evaluated.
        other: of ``--compare``.
        options: of both evaluations, the family's ``EvaluateOptions``.

    Raises:
        InputError: naming the difference.
    """
    path, beside = other.record.path, one.record.path
    if other.experiment != one.experiment:
        raise InputError(
            f"--compare {path}: is a run of {other.experiment.name}, {beside} of "
            f"{one.experiment.name}"
        )
    difference = task_difference(one, other, options, sizes=True)
    if difference is not None:
        mend = one.config.mends.get(difference.partition(" ")[0], "")
        raise InputError(f"--compare {path}: {difference}{mend}")


def task_difference(one: Loaded, other: Loaded, options: Any, *, sizes: bool = False) -> str | None:
    """The first setting by which two runs of an experiment are evaluated on unlike tasks.

    Args:
        one: a run.
        other: a run.
        options: of both evaluations; a setting that they choose is the same for both.
        sizes: whether tasks of other sizes are unlike, see `FamilyConfig`.
    """
    theirs, ours = (
        run.config.task_settings(options) | (run.config.size_settings(options) if sizes else {})
        for run in (other, one)
    )
    for name, value in theirs.items():
        if value != ours[name]:
            return f"{name} is {value}, that of {one.record.path} is {ours[name]}"
    return None


def _after(evaluation: dict[str, Any], steps: int) -> np.ndarray:
    """``(steps + 1, task)`` metric after each number of steps."""
    per_task = np.asarray(evaluation["per_task"][: steps + 1], dtype=float)
    return np.broadcast_to(per_task, (steps + 1, per_task.shape[1]))


def unlike_tasks(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """By what two evaluations are not of the same tasks; None where they are."""
    for name in ("experiment", "metric", "task_seed", "tasks"):
        if one[name] != other[name]:
            return f"{name} is {other[name]}, that of {one['run']} is {one[name]}"
    # One seed draws other tasks where runs have other ranges, physics, ways or shots.
    for name in TASK_VARIANTS:
        if one["variants"].get(name) != other["variants"].get(name):
            return f"its tasks are not those of {one['run']}: {name} differs"
    return None


def compare(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Paired difference ``one - other`` of the means over the same tasks, by bootstrap.

    Returns:
        ``mean`` and ``low``, ``high`` (percentiles 2.5 and 97.5 of `RESAMPLES` resamples over
        tasks) after each number of steps that both have; a run that takes none, such as an oracle,
        is the same after all. ``other``: the other run's own ``mean``, ``ci95`` and ``per_task``.

    Raises:
        InputError: the evaluations are not of the same tasks.
    """
    difference = unlike_tasks(one, other)
    if difference is not None:
        raise InputError(f"--compare {other['run']}: {difference}")
    both = (one["steps"], other["steps"])
    steps = min(both) or max(both)
    ours, theirs = (_after(e, steps) for e in (one, other))
    difference = ours - theirs
    rng = metarl.stream(0, "bootstrap")
    tasks = difference.shape[1]
    block = max(1, BLOCK // tasks)
    sizes = [min(block, RESAMPLES - done) for done in range(0, RESAMPLES, block)]
    even = np.full(tasks, 1 / tasks)
    with np.errstate(all="ignore"):
        means = [rng.multinomial(tasks, even, size) / tasks @ difference.T for size in sizes]
        low, high = np.percentile(np.concatenate(means), (2.5, 97.5), axis=0)
    if tasks == 1:  # which says nothing of others
        low = high = np.full(steps + 1, np.nan)
    value = {
        "run": other["run"],
        "iteration": other["iteration"],
        "mean": difference.mean(1).tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "other": {name: other[name] for name in ("mean", "ci95", "per_task")},
    }
    finite: dict[str, Any] = finite_or_null(value)
    return finite
