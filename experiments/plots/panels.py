"""One figure of several experiments' adaptation curves, a panel each."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure as Canvas

from .curves import STEPS, Curve, paint_curves
from .style import Figure, draw

COLUMNS = 3


def adaptation_panels(panels: Mapping[str, Sequence[Curve]]) -> Figure:
    """Metric against gradient steps, with 95 % bands over tasks; one legend for all.

    Args:
        panels: title -> curves. What has the same label in several of them looks the same.
    """
    order: dict[bool, list[str]] = {False: [], True: []}
    for label, _, published in (curve for curves in panels.values() for curve in curves):
        if label not in order[published]:
            order[published].append(label)
    columns = min(len(panels), COLUMNS)
    lines = math.ceil(len(panels) / columns)

    def paint(canvas: Canvas) -> None:
        grid = canvas.subplots(lines, columns, squeeze=False)
        entries: dict[str, Any] = {}
        for axes, (title, curves) in zip(grid.flat, panels.items(), strict=False):
            for published, labels in order.items():
                some = [curve for curve in curves if curve.published is published]
                if some:
                    paint_curves(axes, some, labels)
            axes.set_title(title, fontsize=11)
            handles, labels = axes.get_legend_handles_labels()
            entries |= dict(zip(labels, handles, strict=True))
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for row in grid:
            row[0].set_ylabel(next(iter(panels.values()))[0].evaluation["metric"])
        grid[-1][columns // 2].set_xlabel(STEPS)
        canvas.legend(
            [entries[label] for labels in order.values() for label in labels],
            [label for labels in order.values() for label in labels],
            loc="outside lower center",
            ncols=COLUMNS + 1,
            fontsize=10,
        )

    rows: list[list[Any]] = [["panel", "label", "steps", "mean", "ci95"]]
    for title, curves in panels.items():
        for label, evaluation, _ in curves:
            columns_of = zip(evaluation["mean"], evaluation["ci95"], strict=True)
            rows += [[title, label, k, *pair] for k, pair in enumerate(columns_of)]
    return draw(
        paint,
        name="adaptation",
        title="Adaptation",
        caption="Means over held-out tasks, with 95 % intervals; 0 steps is before adaptation.",
        rows=rows,
        size=(3.2 * columns, 2.7 * lines + 0.9),
    )
