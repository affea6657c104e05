"""Figures that every family has: adaptation curves and learning curves."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from ..evaluate import Loaded
from .style import COLOURS, Figure, band, draw, ink, log_scale

Evaluation = dict[str, Any]


class Curve(NamedTuple):
    """An adaptation curve to draw: a label and an evaluation's JSON."""

    label: str
    evaluation: Evaluation


class Points(NamedTuple):
    """Published numbers: a label, and metric after k steps."""

    label: str
    values: dict[int, float]


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

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for index, (label, evaluation) in enumerate(curves):
            mean, half = _finite(evaluation["mean"]), _finite(evaluation["ci95"])
            band(axes, range(len(mean)), mean, half, label=label, index=index)
        for index, (label, values) in enumerate(points):
            axes.plot(
                list(values),
                list(values.values()),
                linestyle="none",
                marker="x*+"[index % 3],
                markersize=9,
                color=ink(),
                label=label,
            )
        axes.set(xlabel="gradient steps on the task", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if log:
            log_scale(axes)
        axes.legend()

    rows: list[list[Any]] = [["label", "steps", metric, "ci95"]]
    for label, evaluation in curves:
        columns = zip(evaluation["mean"], evaluation["ci95"], strict=True)
        rows += [[label, k, *pair] for k, pair in enumerate(columns)]
    rows += [[label, k, value, ""] for label, values in points for k, value in values.items()]
    first = curves[0].evaluation
    return draw(
        paint,
        name="adaptation",
        title=f"{metric.capitalize()} against gradient steps",
        caption=f"Mean over {first['tasks']} held-out tasks; the bands are 95 % intervals of the "
        f"mean over tasks. 0 steps is the model before adaptation. {note}".strip(),
        rows=rows,
    )


def learning_curves(runs: Sequence[tuple[str, Loaded]], *, log: bool = False) -> Figure:
    """Metric before and after adaptation against meta-iterations, and on validation tasks."""
    before, after = runs[0][1].learner.shown
    validation = f"validation.{runs[0][1].learner.criterion}"
    series = ((before, ":", 0.6), (after, "-", 0.6), (validation, "--", 1.0))

    def points(loaded: Loaded, tag: str) -> list[tuple[int, float]]:
        records = loaded.record.metrics
        return [(r["iteration"], r[tag]) for r in records if r.get(tag) is not None]

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for index, (label, loaded) in enumerate(runs):
            for tag, line, alpha in series:
                values = points(loaded, tag)
                if values:
                    axes.plot(
                        *zip(*values, strict=True),
                        linestyle=line,
                        alpha=alpha,
                        color=COLOURS[index % len(COLOURS)],
                        linewidth=1.2,
                        label=f"{label}: {tag.replace('_', ' ').replace('.', ', ')}",
                    )
        axes.set(xlabel="meta-iterations", ylabel=after.removesuffix("_after"))
        if log:
            log_scale(axes)
        axes.legend(fontsize=9)

    rows: list[list[Any]] = [["label", "tag", "iteration", "value"]]
    for label, loaded in runs:
        rows += [[label, tag, *pair] for tag, _, _ in series for pair in points(loaded, tag)]
    return draw(
        paint,
        name="learning",
        title="Learning curves",
        caption="Training metrics are means over the iterations of a record; validation is on "
        "fixed tasks, after the trained number of steps.",
        rows=rows,
    )
