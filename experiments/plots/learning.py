"""Learning curves, which every family has: metrics against training."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter

from ..evaluation.evaluate import Loaded
from .legend import LEGEND_ROW, legend_below
from .style import COLOURS, MARKERS, Figure, draw, log_scale


class Line(NamedTuple):
    """What a line is called, and the runs it is of: one, or several that differ by their seed."""

    label: str
    runs: Sequence[Loaded]


class Series(NamedTuple):
    """A metric of one run along its training, one entry a record that has it."""

    iterations: list[int]
    cost: list[float]
    values: list[float]


def learning_curves(
    lines: Sequence[Line],
    *,
    log: bool = False,
    cost: tuple[str, str] | None = None,
) -> Figure | None:
    """Metric before and after adaptation against training, and on validation tasks.

    Args:
        lines: one run is drawn as it is, several as their mean in a band from the lowest to the
            highest.
        log: logarithmic metric.
        cost: metric of one iteration to add up along the horizontal axis, and the axis's label;
            the iterations themselves by default.

    Returns:
        None where no run was trained.
    """
    if not any(one.record.metrics for line in lines for one in line.runs):
        return None
    before, after = lines[0].runs[0].learner.shown
    validation = f"validation.{after}"
    styles = {before: (":", 0.9), after: ("-", 0.9), validation: ("--", 1.0)}
    tag_of_cost, axis = cost or ("iteration", "meta-iterations")

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for index, (label, runs) in enumerate(lines):
            for tag, (dashes, alpha) in styles.items():
                found = [series(one, tag, tag_of_cost) for one in runs]
                # Of each round of the colours another.
                shape = MARKERS[index // len(COLOURS) % len(MARKERS)]
                _paint_seeds(
                    axes,
                    [one for one in found if one.values],
                    linestyle=dashes,
                    marker=shape if tag == validation else None,
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

    spent = [] if cost is None else [tag_of_cost]
    rows: list[list[Any]] = [["label", "seed", "tag", "iteration", *spent, "value"]]
    for label, runs in lines:
        for one, tag in itertools.product(runs, styles):
            for iteration, x, value in zip(*series(one, tag, tag_of_cost), strict=True):
                at = [iteration, x] if spent else [iteration]
                rows.append([label, one.record.config["seed"], tag, *at, value])
    seeds = (
        " A line of several seeds is their mean, as far as all were trained; its band goes from "
        "the lowest to the highest."
    )
    return draw(
        paint,
        name="learning",
        title="Learning curves",
        caption="Training metrics are means over the iterations of a record; validation is on "
        "fixed tasks, after the trained number of steps."
        + (seeds if any(len(line.runs) > 1 for line in lines) else ""),
        rows=rows,
        size=(5.6, 3.8 + LEGEND_ROW * math.ceil(1.5 * len(lines))),
    )


def _paint_seeds(axes: Axes, seeds: Sequence[Series], **look: Any) -> None:
    if not seeds:
        return
    x, mean, low, high = mean_and_range(seeds)
    if len(x) == 1 and look["marker"] is None:
        look["marker"] = "."
    axes.plot(x, mean, **look)
    if len(seeds) > 1:
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


def mean_and_range(seeds: Sequence[Series]) -> tuple[np.ndarray, ...]:
    """Of several runs: cost, mean, lowest and highest of their values, as far as all go.

    They are taken where the run with the fewest records has one, which most runs have in common;
    those that have none there are interpolated.
    """
    first = max(one.iterations[0] for one in seeds)
    last = min(one.iterations[-1] for one in seeds)
    fewest = min((one.iterations for one in seeds), key=len)
    at = [iteration for iteration in fewest if first <= iteration <= last]
    cost, values = (
        np.array([np.interp(at, one.iterations, getattr(one, name)) for one in seeds])
        for name in ("cost", "values")
    )
    return cost.mean(0), values.mean(0), values.min(0), values.max(0)


def series(loaded: Loaded, tag: str, tag_of_cost: str) -> Series:
    """A metric of a run against what another adds up to, or against its iterations."""
    records = loaded.record.metrics
    iterations = [record["iteration"] for record in records]
    spent = iterations if tag_of_cost == "iteration" else summed(records, tag_of_cost)
    points = [
        (iteration, x, record[tag])
        for iteration, x, record in zip(iterations, spent, records, strict=True)
        if record.get(tag) is not None
    ]
    return Series(*map(list, zip(*points, strict=True))) if points else Series([], [], [])


def summed(records: Sequence[dict[str, Any]], tag: str) -> list[float]:
    """What a metric, a mean over each record's iterations, adds up to at each record."""
    total, done, sums = 0.0, 0, []
    for record in records:
        total += (record.get(tag) or 0.0) * (record["iteration"] - done)
        done = record["iteration"]
        sums.append(total)
    return sums
