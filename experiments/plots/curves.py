"""Adaptation curves, which every family has: the metric against gradient steps."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from ..family import mean_and_ci95
from ..words import count
from .legend import LEGEND_ROW, legend_below
from .style import Figure, band, dashed, draw, ink, log_scale

Evaluation = dict[str, Any]

STEPS = "gradient steps on the task"
# More entries than these in a legend go below the figure.
MANY = 3


class Curve(NamedTuple):
    """An adaptation curve to draw: a label and an evaluation's JSON.

    ``published`` marks what is not measured here: a dashed line with open marks.
    """

    label: str
    evaluation: Evaluation
    published: bool = False


class Points(NamedTuple):
    """Published numbers: a label, and metric after k steps."""

    label: str
    values: dict[int, float]


def mean_of_seeds(seeds: Sequence[Evaluation]) -> Evaluation:
    """Evaluations of several seeds as one: for each task, which they have in common, the mean."""
    if len(seeds) == 1:
        return seeds[0]
    per_task = np.mean([np.array(e["per_task"], dtype=float) for e in seeds], axis=0)
    return {**seeds[0], **mean_and_ci95(per_task)}


def _finite(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def adaptation_curves(
    curves: Sequence[Curve], points: Sequence[Points] = (), *, log: bool = False, note: str = ""
) -> Figure:
    """Metric against gradient steps, with 95 % bands over tasks.

    Args:
        curves: runs.
        points: published numbers, as open marks.
        log: logarithmic metric.
        note: added to the caption.
    """
    metric = curves[0].evaluation["metric"]
    entries = len(curves) + len(points)

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        paint_curves(axes, curves)
        for index, (label, values) in enumerate(points):
            axes.plot(
                list(values),
                list(values.values()),
                linestyle="none",
                marker="x*+^"[index % 4],
                markersize=9,
                color=ink(),
                label=label,
            )
        axes.set(xlabel=STEPS, ylabel=metric)
        if log:
            log_scale(axes)
        if entries > MANY:
            legend_below(canvas, axes)
        else:
            axes.legend()

    rows: list[list[Any]] = [["label", "steps", metric, "ci95"]]
    for label, evaluation, _ in curves:
        columns = zip(evaluation["mean"], evaluation["ci95"], strict=True)
        rows += [[label, k, *pair] for k, pair in enumerate(columns)]
    rows += [[label, k, value, ""] for label, values in points for k, value in values.items()]
    first = curves[0].evaluation
    return draw(
        paint,
        name="adaptation",
        title=f"{metric.capitalize()} against gradient steps",
        caption=f"Mean over {count(first['tasks'], 'held-out task')}, and over seeds where a line "
        f"has several; the bands are 95 % intervals of the mean over tasks. 0 steps is the model "
        f"before adaptation. {note}".strip(),
        rows=rows,
        size=(5.6, 3.8 if entries <= MANY else 3.8 + LEGEND_ROW * math.ceil(entries / 2)),
    )


def paint_curves(axes: Axes, curves: Sequence[Curve], order: Sequence[str] = ()) -> None:
    """Ours as lines with bands, the published ones dashed, in the colours of their places.

    Args:
        axes: to paint on.
        curves: what to paint.
        order: labels of all the curves of a figure with several axes.
    """
    steps = max(len(curve.evaluation["mean"]) for curve in curves)
    for published, line in ((False, band), (True, dashed)):
        drawn = [curve for curve in curves if curve.published is published]
        for place, (label, evaluation, _) in enumerate(drawn):
            mean, half = _finite(evaluation["mean"]), _finite(evaluation["ci95"])
            if len(mean) == 1:  # takes no steps: the same wherever one looks
                mean, half = mean * steps, half * steps
            index = order.index(label) if order else place
            line(axes, range(len(mean)), mean, half, label=label, index=index)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
