"""Figures that every family has: adaptation curves and learning curves."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter, MaxNLocator

from ..evaluation.evaluate import Loaded
from ..family import mean_and_ci95
from .style import (
    COLOURS,
    LEGEND_ROW,
    MARKERS,
    Figure,
    band,
    dashed,
    draw,
    ink,
    legend_below,
    log_scale,
)

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
        caption=f"Mean over {first['tasks']} held-out tasks, and over seeds where a line has "
        f"several; the bands are 95 % intervals of the mean over tasks. 0 steps is the model "
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


def learning_curves(
    runs: Sequence[tuple[str, Loaded]], *, log: bool = False, cost: tuple[str, str] | None = None
) -> Figure | None:
    """Metric before and after adaptation against training, and on validation tasks.

    Args:
        runs: label and run.
        log: logarithmic metric.
        cost: metric of one iteration to add up along the horizontal axis, and the axis's label;
            the iterations themselves by default.

    Returns:
        None where no run was trained.
    """
    if not any(loaded.record.metrics for _, loaded in runs):
        return None
    before, after = runs[0][1].learner.shown
    validation = f"validation.{after}"
    series = ((before, ":", 0.9), (after, "-", 0.9), (validation, "--", 1.0))
    tag_of_cost, axis = cost or ("iteration", "meta-iterations")

    def points(loaded: Loaded, tag: str) -> list[tuple[int, float, float]]:
        records = loaded.record.metrics
        spent = [r["iteration"] for r in records] if cost is None else summed(records, tag_of_cost)
        return [
            (r["iteration"], x, r[tag])
            for r, x in zip(records, spent, strict=True)
            if r.get(tag) is not None
        ]

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for index, (label, loaded) in enumerate(runs):
            for tag, line, alpha in series:
                values = points(loaded, tag)
                # Of each round of the colours another.
                shape = MARKERS[index // len(COLOURS) % len(MARKERS)]
                marker = shape if tag == validation else None
                if values:
                    axes.plot(
                        *list(zip(*values, strict=True))[1:],
                        linestyle=line,
                        marker="." if len(values) == 1 and marker is None else marker,
                        markersize=4,
                        alpha=alpha,
                        color=COLOURS[index % len(COLOURS)],
                        linewidth=1.2,
                        label=f"{label}: {tag.replace('_', ' ').replace('.', ', ')}",
                    )
        axes.set(xlabel=axis, ylabel=after.removesuffix("_after"))
        if cost is not None:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if log:
            log_scale(axes)
        if axes.get_legend_handles_labels()[0]:
            legend_below(canvas, axes)

    rows: list[list[Any]] = [["label", "tag", "iteration", "value"]]
    if cost is not None:
        rows[0].insert(3, tag_of_cost)
    for label, loaded in runs:
        for tag, *_ in series:
            for iteration, x, value in points(loaded, tag):
                rows.append([label, tag, iteration, *([] if cost is None else [x]), value])
    return draw(
        paint,
        name="learning",
        title="Learning curves",
        caption="Training metrics are means over the iterations of a record; validation is on "
        "fixed tasks, after the trained number of steps.",
        rows=rows,
        size=(5.6, 3.8 + LEGEND_ROW * math.ceil(1.5 * len(runs))),
    )


def summed(records: Sequence[dict[str, Any]], tag: str) -> list[float]:
    """What a metric, a mean over each record's iterations, adds up to at each record."""
    total, done, sums = 0.0, 0, []
    for record in records:
        total += (record.get(tag) or 0.0) * (record["iteration"] - done)
        done = record["iteration"]
        sums.append(total)
    return sums
