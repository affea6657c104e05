"""Legends that fit their figures."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.legend import Legend

# Inches that a row of a legend takes.
LEGEND_ROW = 0.24
_SHORTEST = 12  # letters of a label


def legend_below(canvas: Canvas, axes: Axes, *, columns: int = 2) -> None:
    """Legend under the figure, where many entries cover nothing.

    Where its columns are wider than the figure it has one, for which the figure grows, and labels
    wider still lose their middle.
    """
    handles, labels = axes.get_legend_handles_labels()

    def place(columns: int) -> Legend:
        return canvas.legend(
            handles, labels, loc="outside lower center", ncols=columns, fontsize=10
        )

    legend = place(columns)
    if _fits(legend, canvas):
        return
    width, height = canvas.get_size_inches()
    more = len(labels) - math.ceil(len(labels) / columns)
    canvas.set_size_inches(width, height + LEGEND_ROW * more)
    letters = max(map(len, labels))
    legend.remove()
    legend = place(1)
    while not _fits(legend, canvas) and letters > _SHORTEST:
        letters = max(_SHORTEST, int(0.95 * letters))
        labels = [elided(label, letters) for label in labels]
        legend.remove()
        legend = place(1)


def elided(label: str, letters: int) -> str:
    """A label of so many letters at most, its beginning and its end."""
    if len(label) <= letters:
        return label
    begin = (letters - 1) // 2
    return f"{label[:begin]}…{label[len(label) - (letters - 1 - begin) :]}"


def _fits(legend: Legend, canvas: Canvas) -> bool:
    return legend.get_window_extent().width <= canvas.bbox.width
