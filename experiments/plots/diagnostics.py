"""How training went: trust region, gain, exploration, and where the time went."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from metarl.rl.clock import PARTS

from ..configs.rl import Config
from ..training.decay import kl_limit
from .style import COLOURS, Figure, band, draw, ink

TAGS = (
    "kl",
    "loss",
    "step_accepted",
    "backtracks",
    "gain",
    "gain_ci95",
    "sigma",
    "inner_grad_norm",
)

# What the first two panels show, of each meta-update.
UPDATES = {
    "trpo": "KL: between the adapted policies before and after the meta-update, in nats; dashed is "
    "the limit. Backtracks: of the line search, in the mean of a record's iterations; crosses are "
    "records with a meta-update that it rejected.",
    "promp": "KL: between the adapted policies before and after the meta-update, in nats. Loss: "
    "the clipped surrogate after adaptation and the penalty on the inner KL, in its last epoch.",
    "adam": "KL: between the adapted policies and those that acted, at the gradient. Loss: the "
    "surrogate after adaptation.",
}

Records = Sequence[dict[str, Any]]


def diagnostics(label: str, records: Records, config: Config) -> Figure | None:
    """KL, accepted steps, gain, standard deviation, inner gradients, time by part.

    Args:
        label: of the run.
        records: of its metrics.jsonl.
        config: the run's, for the limits that it set.

    Returns:
        None for a run without metrics.
    """
    if not records:
        return None
    x = _column(records, "iteration")
    seconds = {part: np.nan_to_num(_column(records, f"seconds.{part}")) for part in PARTS}
    painters: list[Callable[[Axes], None]] = [
        lambda axes: _kl(axes, x, records, config),
        lambda axes: _update(axes, x, records, config),
        lambda axes: _gain(axes, x, records),
        lambda axes: _line(axes, x, records, "sigma", "standard deviation of the actions"),
        lambda axes: _line(axes, x, records, "inner_grad_norm", "norm of the inner gradient"),
        lambda axes: _time(axes, x, seconds),
    ]

    def paint(canvas: Canvas) -> None:
        panels = canvas.subplots(3, 2, sharex=True)
        for axes, painter in zip(panels.flat, painters, strict=True):
            painter(axes)
        for axes in panels[-1]:
            axes.set_xlabel("meta-iterations")
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))

    tags = (*TAGS, *(f"seconds.{part}" for part in PARTS))
    rows: list[list[Any]] = [["iteration", *tags]]
    rows += [[record["iteration"], *(record.get(tag) for tag in tags)] for record in records]
    return draw(
        paint,
        name="diagnostics",
        title="Diagnostics of training",
        caption=f"{label}. {UPDATES[config.update]} Gain: return after less return before "
        "adaptation, with the 95 % interval over the tasks of the meta-batch. Time: seconds of one "
        "meta-iteration by part; far slower ones, as the first where it compiles, are cut off.",
        rows=rows,
        size=(7.4, 7.6),
    )


def accepted_share(records: Records) -> float:
    """Share of meta-updates that the line search accepted; a record is a mean of iterations."""
    accepted = _column(records, "step_accepted")
    iterations = np.diff(_column(records, "iteration"), prepend=0)
    return float(np.average(np.where(np.isnan(accepted), 1, accepted), weights=iterations))


def _column(records: Records, tag: str) -> np.ndarray:
    return np.array([record.get(tag) for record in records], dtype=float)


def _line(axes: Axes, x: np.ndarray, records: Records, tag: str, title: str) -> None:
    values, alone = _column(records, tag), "o" if len(x) == 1 else None
    axes.plot(x, values, color=COLOURS[0], linewidth=1.2, marker=alone)
    axes.set_title(title, fontsize=10)
    if np.isnan(values).all():
        axes.set_yticks([])
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center")


def _kl(axes: Axes, x: np.ndarray, records: Records, config: Config) -> None:
    _line(axes, x, records, "kl", "KL of the meta-update (nats)")
    if config.update == "trpo":
        limits = [kl_limit(config, int(i) - 1) for i in x]
        axes.plot(x, limits, color=ink(), linestyle="--", linewidth=1)
    axes.set_ylim(bottom=0)


def _update(axes: Axes, x: np.ndarray, records: Records, config: Config) -> None:
    if config.update == "trpo":
        _line_search(axes, x, records)
    else:
        _line(axes, x, records, "loss", "loss of the meta-update")


def _line_search(axes: Axes, x: np.ndarray, records: Records) -> None:
    backtracks, accepted = (_column(records, tag) for tag in ("backtracks", "step_accepted"))
    height = np.nan_to_num(backtracks)
    whole = ~(accepted < 1)
    axes.plot(x[whole], height[whole], "o", color=COLOURS[0], markersize=3)
    axes.plot(x[~whole], height[~whole], "x", color=COLOURS[4], markersize=6)
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.set_title(f"backtracks ({100 * accepted_share(records):.0f} % accepted)", fontsize=10)


def _gain(axes: Axes, x: np.ndarray, records: Records) -> None:
    gain, half = _column(records, "gain"), _column(records, "gain_ci95")
    alone = len(x) == 1
    band(axes, x.tolist(), gain.tolist(), half.tolist(), label="gain", index=0, marker=alone)
    axes.axhline(0, color=ink(), linewidth=1)
    axes.set_title("gain by adaptation (return)", fontsize=10)


def _time(axes: Axes, x: np.ndarray, seconds: dict[str, np.ndarray]) -> None:
    names = [part.replace("_", " ") for part in seconds]
    axes.stackplot(x, *seconds.values(), labels=names, colors=COLOURS, linewidth=0)
    usual = float(np.percentile(sum(seconds.values()), 90))
    axes.set_ylim(0, 1.6 * usual or None)
    axes.set_title("time of an iteration (s)", fontsize=10)
    axes.legend(fontsize=7, ncols=3, loc="upper center", frameon=True, framealpha=0.6)
