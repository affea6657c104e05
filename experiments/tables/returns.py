"""Mean returns of meta-policies on the paper's goals, ours and the authors'."""

import numpy as np

from ..catalog import package_data
from ..words import count
from .rows import Groups, row, span, table

RETURN_GROUPS = {
    "": "MAML, default preset",
    "-held-out": "MAML, default preset, 200 fresh tasks",
    "-paper": "MAML, paper's settings",
    "-linear": "MAML, paper's settings, linear surrogate",
    "-gym": "MAML, default preset, physics of gymnasium",
    "-equal-steps": "MAML, steps of one length",
    "-first-order": "first order",
    "-pretrained": "pretrained",
    "-random": "random",
    "-oracle": "oracle",
}
AUTHORS = {
    "maml": "MAML",
    "pretrained": "pretrained",
    "random": "random",
    "oracle": "oracle",
}


def returns(groups: Groups, experiment: str) -> str:
    """All rows of an experiment after 0..K steps.

    Over seeds the mean, and the lowest to the highest. Where the paper has the experiment, the last
    row is ours minus the authors' MAML on the same goals: the mean over goals and its 95 %
    half-width.
    """
    theirs = _authors(experiment)
    ours = [suffix for suffix in RETURN_GROUPS if experiment + suffix in groups]
    if not ours:
        raise KeyError(experiment)
    curves = [e["mean"] for suffix in ours for e in groups[experiment + suffix]]
    steps = max(map(len, (*curves, *theirs.values())))
    lines = [_ours(groups, experiment + suffix, RETURN_GROUPS[suffix], steps) for suffix in ours]
    for name, per_goal in theirs.items():
        lines.append(_row(f"{AUTHORS[name]}, the authors'", _numbers(per_goal), steps))
    if experiment in groups and theirs:
        lines.append(
            _row("MAML, ours minus the authors', paired", _paired(groups, experiment), steps)
        )
    return table("mean return after", _columns(steps), lines)


def policies(groups: Groups, *experiments: str) -> str:
    """Of every experiment the default preset, the authors' MAML, and the paired difference."""
    steps = max(len(_authors(name)["maml"]) for name in experiments)
    lines = []
    for name in experiments:
        title = name.replace("-", ", ")
        lines.append(_ours(groups, name, title, steps))
        lines.append(_row("— the authors'", _numbers(_authors(name)["maml"]), steps))
        lines.append(_row("— ours minus the authors', paired", _paired(groups, name), steps))
    return table("mean return after", _columns(steps), lines)


def _columns(steps: int) -> list[str]:
    return [count(k, "step") for k in range(steps)]


def _row(label: str, cells: list[str], steps: int) -> str:
    return row(label, cells + [""] * (steps - len(cells)))


def _ours(groups: Groups, group: str, label: str, steps: int) -> str:
    seeds = np.array([e["mean"] for e in groups[group]], dtype=float)
    cells = [span(column, ".1f") for column in seeds.T]
    return _row(f"{label}, ours ({count(len(seeds), 'seed')})", cells, steps)


def _authors(experiment: str) -> dict[str, np.ndarray]:
    """Method -> per-goal returns, (K + 1, goal); none where the paper has no such experiment."""
    told = package_data("paper", "returns").get(experiment, {"returns": {}})["returns"]
    return {name: np.array(values) for name, values in told.items()}


def _numbers(per_goal: np.ndarray) -> list[str]:
    return [f"{x:.1f}" for x in per_goal.mean(1)]


def _paired(groups: Groups, experiment: str) -> list[str]:
    """Ours, mean over seeds, minus the authors' MAML on the same goals, with 95 % half-widths."""
    ours = np.mean([e["per_task"] for e in groups[experiment]], axis=0)
    difference = ours - _authors(experiment)["maml"]
    half = 1.96 * difference.std(1, ddof=1) / np.sqrt(difference.shape[1])
    # So many digits that an interval of zero, or not, is one.
    pairs = ((m, h, 2 if h < 1 else 1) for m, h in zip(difference.mean(1), half, strict=True))
    return [f"{m:+.{digits}f} ± {h:.{digits}f}" for m, h, digits in pairs]
