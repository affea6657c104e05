"""Returns task by task: against the task's parameter, and before against after adaptation."""

import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from ..words import count
from .curves import Evaluation
from .legend import legend_below
from .style import COLOURS, MARKERS, Figure, draw, ink

UNITS = {"velocity": "m/s", "goal": "m"}
DIRECTIONS = {-1.0: "backwards", 1.0: "forwards"}
# So few different values of a parameter, each of several tasks, are categories.
CATEGORIES = 3
# Steps from the first on that are drawn beside the last.
FIRST_STEPS = 3


def against_task(label: str, evaluation: Evaluation, *, units: bool) -> list[Figure]:
    """Return after each number of steps against each parameter of the task that can be drawn.

    Numbers make a line or, where they take few values, strips; pairs of numbers a map.

    Args:
        label: of the run.
        evaluation: with ``variants["task"]``, name -> the tasks' values.
        units: whether names mean what they do in this package's own environments.
    """
    per_task = np.array(evaluation["per_task"], dtype=float)
    found = []
    for name, told in evaluation["variants"]["task"].items():
        try:
            values = np.array(told, dtype=float)
        except (TypeError, ValueError):
            continue  # a task may hold anything; only numbers have an axis
        unit = UNITS.get(name, "") if units else ""
        arguments = (label, name, unit, values, per_task)
        if values.ndim == 2 and values.shape[1] == 2:
            found.append(_plane(*arguments))
        elif values.ndim == 1:
            found.append(_number(*arguments))
    return found


def before_after(label: str, evaluation: Evaluation) -> Figure | None:
    """Each task's return after adaptation against that before; None for a method without steps."""
    per_task = np.array(evaluation["per_task"], dtype=float)
    if len(per_task) < 2:
        return None
    drawn = drawn_steps(len(per_task) - 1)
    shown = sorted({1, drawn[-1]})
    low, high = np.nanmin(per_task[[0, *shown]]), np.nanmax(per_task[[0, *shown]])
    margin = 0.05 * (high - low) or 1.0
    limits = (low - margin, high + margin)

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        axes.plot(limits, limits, color=ink(), linewidth=1, linestyle=":", label="no change")
        for k in shown:
            axes.plot(
                per_task[0], per_task[k], linestyle="none", label=after(k), **_mark(drawn.index(k))
            )
        axes.set(
            xlabel="return before adaptation",
            ylabel="return after adaptation",
            xlim=limits,
            ylim=limits,
            aspect="equal",
        )
        legend_below(canvas, axes, columns=3)  # marks lie anywhere

    better = np.mean(per_task[shown] > per_task[0], axis=1)
    told = ", ".join(f"{100 * b:.0f} % {after(k)}" for b, k in zip(better, shown, strict=True))
    rows: list[list[Any]] = [["task", *(f"after_{k}" for k in (0, *shown))]]
    rows += [[i, *map(float, values)] for i, values in enumerate(per_task[[0, *shown]].T)]
    return draw(
        paint,
        name="before-after",
        title="Each task before and after",
        caption=f"{label}: one mark for each of {count(per_task.shape[1], 'task')}; above the "
        f"dotted line adaptation has helped ({told}).",
        rows=rows,
        size=(5.6, 5.2),
    )


def after(k: int) -> str:
    """What ``k`` gradient steps are called."""
    return "before" if k == 0 else f"after {count(k, 'step')}"


def drawn_steps(most: int) -> list[int]:
    """Numbers of steps that one figure tells apart: 0, 1, 2, 3 and the last."""
    return sorted({*range(min(most, FIRST_STEPS) + 1), most})


def _mark(k: int) -> dict[str, Any]:
    style = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
    return {**style, "markersize": 5, "alpha": 0.85}


def _number(label: str, name: str, unit: str, values: np.ndarray, per_task: np.ndarray) -> Figure:
    known = np.unique(values)
    if len(known) <= CATEGORIES and len(known) < len(values):
        return _strips(label, name, unit, values, per_task)
    order = np.argsort(values)

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for i, k in enumerate(drawn_steps(len(per_task) - 1)):
            y = per_task[k][order]
            axes.plot(values[order], y, linewidth=0.8, label=after(k), **_mark(i))
        axes.set(xlabel=_axis(name, unit), ylabel="return")
        legend_below(canvas, axes, columns=3)

    return _finish(paint, label, name, values[:, None], per_task, (5.6, 4.2))


def _axis(name: str, unit: str) -> str:
    return f"{name} of the task" + (f" ({unit})" if unit else "")


def _strips(label: str, name: str, unit: str, values: np.ndarray, per_task: np.ndarray) -> Figure:
    known, drawn = np.unique(values), drawn_steps(len(per_task) - 1)
    width = 0.8 / len(drawn)

    def paint(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for place, k in enumerate(drawn):
            for i, value in enumerate(known):
                of = per_task[k][values == value]
                centre = i + (place - (len(drawn) - 1) / 2) * width
                spread = centre + width * np.linspace(-0.35, 0.35, len(of))
                name_once = after(k) if i == 0 else "_"
                axes.plot(spread, of, linestyle="none", label=name_once, **_mark(place))
                axes.plot(centre + width * np.array([-0.4, 0.4]), [of.mean()] * 2, color=ink())
        words = DIRECTIONS if name == "direction" else {}
        axes.set_xticks(range(len(known)), [words.get(v, f"{v:g}") for v in known])
        axes.set(xlabel=_axis(name, unit), ylabel="return")
        legend_below(canvas, axes, columns=3)

    return _finish(
        paint, label, name, values[:, None], per_task, (5.6, 4.2), " Bars are the means."
    )


def _plane(label: str, name: str, unit: str, values: np.ndarray, per_task: np.ndarray) -> Figure:
    shown = sorted({0, min(1, len(per_task) - 1), len(per_task) - 1})
    low, high = np.nanmin(per_task), np.nanmax(per_task)
    place = bool(unit)  # in the plane that the agent moves in, from its middle
    names = [
        f"{axis} of the {name} ({unit})" if place else f"{name}_{i}" for i, axis in enumerate("xy")
    ]

    def paint(canvas: Canvas) -> None:
        panels: list[Axes] = np.ravel(
            canvas.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)
        ).tolist()
        for axes, k in zip(panels, shown, strict=True):
            drawn = axes.scatter(
                values[:, 0],
                values[:, 1],
                c=per_task[k],
                vmin=low,
                vmax=high,
                cmap="cividis",
                s=55,
                edgecolors=ink(),
                linewidths=0.5,
            )
            if place:
                axes.plot(0, 0, "+", color=ink(), markersize=10)
                axes.set_aspect("equal")
            axes.set(title=after(k), xlabel=names[0])
        panels[0].set_ylabel(names[1])
        canvas.colorbar(drawn, ax=panels, label="return", location="bottom", shrink=0.6)

    note = " The cross is the start, (0, 0)." if place else ""
    return _finish(paint, label, name, values, per_task, (7.2, 3.9), note)


def _finish(
    paint: Any,
    label: str,
    name: str,
    values: np.ndarray,
    per_task: np.ndarray,
    size: tuple[float, float],
    note: str = "",
) -> Figure:
    steps = range(len(per_task))
    columns = [name] if values.shape[1] == 1 else [f"{name}_{i}" for i in range(values.shape[1])]
    rows: list[list[Any]] = [["task", *columns, *(f"after_{k}" for k in steps)]]
    rows += [
        [i, *map(float, value), *map(float, returns)]
        for i, (value, returns) in enumerate(zip(values, per_task.T, strict=True))
    ]
    return draw(
        paint,
        name="task-" + re.sub(r"\W+", "-", name),
        title=f"Return against {name}",
        caption=f"{label}: mean return of each of {count(per_task.shape[1], 'task')}.{note}",
        rows=rows,
        size=size,
    )
