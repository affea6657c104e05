"""Accuracies of few-shot image classifiers, ours and the published."""

from typing import Any

import numpy as np

from ..catalog import package_data
from ..words import count
from .rows import Groups, row, span, table

ACCURACY_GROUPS = {
    "": "MAML",
    "-first-order": "first order",
    "-dense": "MAML, no convolutions",
    "-dense-first-order": "first order, no convolutions",
}


def accuracies(groups: Groups, *settings: str) -> str:
    """Accuracy in per cent after the protocol's last step, ours and the published.

    One seed of ours with its 95 % half-width over tasks, several as the mean and the lowest to the
    highest; normalised as in the paper, by the query's own moments, and by the support's.

    Args:
        groups: evaluations.
        settings: groups, such as ``omniglot-5way-1shot``.
    """
    paper = package_data("paper", "images")
    columns = [paper["columns"].index(setting) for setting in settings]
    lines = []
    for suffix, label in ACCURACY_GROUPS.items():
        runs = [groups.get(setting + suffix, []) for setting in settings]
        for note, key in (("", None), (", the support's moments", "support")):
            cells = [_accuracy(evaluations, key) for evaluations in runs]
            if any(cells):
                lines.append(row(f"{label}{note}, ours", cells))
    for label, values in paper["rows"].items():
        found = [values[column] for column in columns]
        if any(found):
            lines.append(row(f"{label}, published", [_published(value) for value in found]))
    return table("accuracy, %", list(settings), lines)


def _accuracy(evaluations: list[dict[str, Any]], moments: str | None) -> str:
    if not evaluations:
        return ""
    told: list[dict[str, Any]] = evaluations
    if moments is not None:
        told = [e["variants"][f"{moments}, {e['variants']['shots']} queries"] for e in evaluations]
    percent = np.array([100 * e["mean"][-1] for e in told])
    if len(told) > 1:
        return f"{span(percent, '.1f')}, {count(len(told), 'seed')}"
    return f"{percent[0]:.1f} ± {100 * told[0]['ci95'][-1]:.1f}"


def _published(value: list[float | None] | None) -> str:
    if value is None:
        return ""
    mean, half = value
    return f"{100 * (mean or 0):.1f}" + ("" if half is None else f" ± {100 * half:.1f}")
