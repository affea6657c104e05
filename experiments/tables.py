"""Numbers of README and docs as text, from the shipped evaluations and the paper's."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .catalog import package_data

Groups = dict[str, list[dict[str, Any]]]

SINUSOID_GROUPS = {
    "sinusoid": "MAML, best preset",
    "sinusoid-paper": "MAML, paper's settings, alpha 0.01",
    "sinusoid-paper-alpha-001": "MAML, paper's settings, alpha 0.001",
    "sinusoid-first-order": "first order",
    "sinusoid-pretrained": "pretrained",
    "sinusoid-oracle": "oracle",
}


def over_seeds(groups: Groups, group: str) -> np.ndarray:
    """Mean over seeds of the mean over tasks, (K + 1,)."""
    means: np.ndarray = np.array([e["mean"] for e in groups[group]], dtype=float)
    return np.asarray(means.mean(0))


def mean(groups: Groups, group: str, steps: str, form: str = ".2f") -> str:
    """One number: the mean of a group's seeds after so many steps."""
    return format(float(over_seeds(groups, group)[int(steps)]), form)


def row(label: str, numbers: list[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join([label, *numbers]) + " |"


def sinusoid(groups: Groups) -> str:
    """5-shot loss after 1, 5 and 10 steps: ours over seeds (lowest to highest), and the paper's."""
    steps = [1, 5, 10]
    lines = [
        "",
        row("5-shot mean squared error after", [f"{k} step{'s' * (k > 1)}" for k in steps]),
        row("---", ["---"] * len(steps)),
    ]
    for group, label in SINUSOID_GROUPS.items():
        if group not in groups:
            continue
        seeds = np.array([e["mean"] for e in groups[group]], dtype=float)
        cells = [_span(seeds[:, k]) for k in steps]
        lines.append(row(f"{label}, ours ({len(seeds)} seed{'s' * (len(seeds) > 1)})", cells))
    for label, values in package_data("paper", "sinusoid")["5-shot"].items():
        numbers = [f"{values[str(k)]:.2f}" for k in steps]
        lines.append(row(f"{label}, the paper's", numbers))
    return "\n".join([*lines, ""])


def _span(values: np.ndarray) -> str:
    if not np.isfinite(values).all():
        return "not finite"
    if len(values) == 1:
        return _short(values[0])
    return f"{_short(values.mean())} ({_short(values.min())} to {_short(values.max())})"


def _short(value: float) -> str:
    """Two digits behind the point, or a power of ten where they would say nothing."""
    return f"{value:.2f}" if 0.1 <= value < 1000 else f"{value:.1e}"


KINDS: dict[str, Callable[..., str]] = {"mean": mean, "sinusoid": sinusoid}
