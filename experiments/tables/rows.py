"""Rows of Markdown tables, and numbers over seeds."""

from typing import Any

import numpy as np

# Group -> the evaluations of its seeds.
Groups = dict[str, list[dict[str, Any]]]


def over_seeds(groups: Groups, group: str) -> np.ndarray:
    """Mean over seeds of the mean over tasks, (K + 1,)."""
    means: np.ndarray = np.array([e["mean"] for e in groups[group]], dtype=float)
    return np.asarray(means.mean(0))


def row(label: str, numbers: list[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join([label, *numbers]) + " |"


def table(head: str, columns: list[str], rows: list[str]) -> str:
    """A Markdown table between empty lines."""
    return "\n".join(["", row(head, columns), row("---", ["---"] * len(columns)), *rows, ""])


def span(values: np.ndarray, form: str | None = None) -> str:
    """Mean (lowest to highest) of seeds, in a format; None is two digits, perhaps of a power."""

    def text(value: float) -> str:
        return _short(value) if form is None else format(value, form)

    if not np.isfinite(values).all():
        return "not finite"
    if len(values) == 1:
        return text(values[0])
    return f"{text(values.mean())} ({text(values.min())} to {text(values.max())})"


def _short(value: float) -> str:
    """Two digits behind the point, two significant ones of small numbers, or a power of ten."""
    if 0.1 <= value < 1000:
        return f"{value:.2f}"
    return f"{value:#.2g}" if 0.001 <= value < 0.1 else f"{value:.1e}"
