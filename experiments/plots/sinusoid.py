"""Figures of the sinusoid regression, as the paper's figures 2 and 3."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure as Canvas

from metarl.supervised import Regression, Sinusoids

from ..catalog import package_data
from ..configs.sinusoid import EvaluateOptions
from ..evaluation.evaluate import Loaded
from ..sinusoid.learner import SinusoidLearner
from ..words import count
from .curves import Curve, Points, adaptation_curves
from .learning import Line, learning_curves
from .style import COLOURS, Figure, draw, ink
from .tasks import after

FIT_TASKS = 3
# Shipped methods drawn beside the runs, where a checkout has them.
SHIPPED = {
    "sinusoid": "MAML (shipped)",
    "sinusoid-first-order": "first order (shipped)",
    "sinusoid-pretrained": "pretrained (shipped)",
    "sinusoid-oracle": "oracle (shipped)",
}


def shipped_groups(runs: Sequence[Loaded]) -> dict[str, str]:
    """Groups of shipped runs to stand beside these, and their labels."""
    del runs
    return SHIPPED


def notes(runs: Sequence[Loaded]) -> list[tuple[str, str]]:
    """Further text of the page; there is none."""
    del runs
    return []


def figures(
    runs: Sequence[tuple[str, Loaded]],
    curves: Sequence[Curve],
    lines: Sequence[Line],
    shown: Sequence[Curve],
    options: EvaluateOptions,
    *,
    alone: bool = False,
) -> list[Figure]:
    """Adaptation curves, fits, learning curves.

    Args:
        runs: label and run.
        curves: their evaluations.
        lines: the runs, seeds as one.
        shown: the adaptation curves of these lines, and of shipped runs beside them.
        options: of the evaluations.
        alone: without published numbers.
    """
    shots = {curve.evaluation["variants"]["shots"] for curve in shown}
    note = f"{' and '.join(map(str, sorted(shots)))} points to adapt on."
    points = paper_points() if shots == {5} and not alone else ()
    drawn = [
        adaptation_curves(shown, points, log=True, note=note),
        fits(*runs[0], options),
        learning_curves(lines, log=True),
    ]
    return [figure for figure in drawn if figure is not None]


def paper_points() -> list[Points]:
    """The paper's losses after some numbers of steps on five points."""
    return [
        Points(f"{label} (paper)", {int(k): v for k, v in values.items()})
        for label, values in package_data("paper", "sinusoid")["5-shot"].items()
    ]


def fits(label: str, loaded: Loaded, options: EvaluateOptions) -> Figure:
    """Sinusoids of an evaluation, and the model before, after one step and after all."""
    learner = loaded.learner
    assert isinstance(learner, SinusoidLearner)
    held_out = (options.task_seed, "test", options.tasks, options.shots)
    every, episodes = learner.source.held_out(*held_out)
    few, steps = min(FIT_TASKS, options.tasks), sorted({0, 1, options.steps})
    tasks = Sinusoids(*(x[:few] for x in every))
    points = episodes.part(slice(few))
    grid = np.linspace(-5, 5, 201)
    predictions = _predictions(learner, loaded, tasks, points.support, grid, steps)
    truth = tasks.amplitude[:, None] * np.sin(grid - tasks.phase[:, None])

    def paint(canvas: Canvas) -> None:
        for i, axes in enumerate(np.atleast_1d(canvas.subplots(1, few, sharex=True))):
            axes.plot(grid, truth[i], color=ink(), linewidth=1.2, label="truth")
            for j, k in enumerate(steps):
                style = {"color": COLOURS[j], "linestyle": (":", "--", "-")[j]}
                axes.plot(grid, predictions[j][i], label=after(k), **style)
            x, y = (v[i, :, 0].cpu().numpy() for v in points.support)
            axes.plot(x, y, "^", color=COLOURS[4], markersize=7, label="points adapted on")
            axes.set(xlabel="x", title=f"A = {tasks.amplitude[i]:.1f}")
            if i == 0:
                axes.set_ylabel("y")
        handles, labels = axes.get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=3)

    rows: list[list[object]] = [["task", "x", "truth", *(f"after_{k}" for k in steps)]]
    for i in range(few):
        columns = (truth[i], *(p[i] for p in predictions))
        rows += [[i, *map(float, values)] for values in zip(grid, *columns, strict=True)]
    return draw(
        paint,
        name="fits",
        title="Fits before and after adaptation",
        caption=f"{label}: {count(few, 'test task')}, {count(options.shots, 'point')} of each.",
        rows=rows,
        size=(9.5, 4.0),
    )


@torch.no_grad()
def _predictions(
    learner: SinusoidLearner,
    loaded: Loaded,
    tasks: Sinusoids,
    support: Regression,
    grid: np.ndarray,
    steps: Sequence[int],
) -> list[np.ndarray]:
    """Outputs on the grid after each of ``steps``, (task, grid) each."""
    path = learner.path(loaded.params, support, max(steps))
    inputs = [np.broadcast_to(grid, (len(tasks.phase), len(grid)))]
    if learner.config.observe_task:
        inputs += [np.broadcast_to(v[:, None], inputs[0].shape) for v in tasks]
    x = torch.as_tensor(np.stack(inputs, -1), dtype=support.x.dtype, device=support.x.device)
    outputs = (torch.func.vmap(learner.apply)(path[k], x) for k in steps)
    return [y[..., 0].double().cpu().numpy() for y in outputs]
