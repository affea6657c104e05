"""Figures of few-shot images: accuracy against inner steps, learning curves, test episodes."""

import contextlib
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure as Canvas

import metarl
from metarl.errors import NoDataError

from ..catalog import package_data
from ..configs.images import EvaluateOptions
from ..evaluation.evaluate import Loaded
from ..images.learner import ImagesLearner
from ..images.tasks import Tasks
from ..options import preset_config
from .curves import Curve, Points, adaptation_curves
from .learning import Line, learning_curves
from .style import COLOURS, Figure, draw, ink

SHEET_TASKS = 2
SHEET_QUERIES = 3
PUBLISHED = ("MAML", "first order", "MAML, no convolutions", "MAML++")


def shipped_groups(runs: Sequence[Loaded]) -> dict[str, str]:
    """Groups of shipped runs of the same ways and shots to stand beside these."""
    if any(not _as_published(loaded) for loaded in runs):
        return {}
    return {group(loaded): f"{group(loaded)} (shipped)" for loaded in runs}


def _as_published(loaded: Loaded) -> bool:
    """Whether a run's tasks are made as those of the papers and of the shipped runs."""
    usual = preset_config(loaded.experiment, "default")
    return bool(loaded.config.rotate == usual.rotate)


def group(loaded: Loaded) -> str:
    """Name of the setting, such as ``omniglot-5way-1shot``."""
    learner = loaded.learner
    assert isinstance(learner, ImagesLearner)
    config = learner.config
    return f"{config.dataset}-{config.ways}way-{config.shots}shot"


def notes(runs: Sequence[Loaded]) -> list[tuple[str, str]]:
    """Further text of the page: which runs lost patience before their iterations were done."""
    ended = []
    for loaded in runs:
        config, metrics = loaded.record.config["config"], loaded.record.metrics
        done = metrics[-1]["iteration"] if metrics else 0
        # What is shown is the best; an end sooner after it is a run that was interrupted.
        patience, best = config.get("patience"), loaded.record.snapshot.iteration
        if patience is not None and best + patience <= done < config["iterations"]:
            ended.append(
                f"{loaded.record.path.name}: {done} of {config['iterations']} iterations; it ends "
                f"where validation has not improved for {patience}"
            )
    return [("Stopped early", "\n".join(ended))] if ended else []


def published(loaded: Loaded) -> list[Points]:
    """The paper's accuracies for the run's ways and shots, at the paper's number of steps."""
    learner = loaded.learner
    assert isinstance(learner, ImagesLearner)
    table = package_data("paper", "images")
    if group(loaded) not in table["columns"] or not _as_published(loaded):
        return []
    column = table["columns"].index(group(loaded))
    return [
        Points(f"{label} (published)", {learner.config.test_steps: table["rows"][label][column][0]})
        for label in PUBLISHED
        if table["rows"][label][column] is not None
    ]


def figures(
    runs: Sequence[tuple[str, Loaded]],
    curves: Sequence[Curve],
    lines: Sequence[Line],
    shown: Sequence[Curve],
    options: EvaluateOptions,
    *,
    alone: bool = False,
) -> list[Figure]:
    """Adaptation curves, a sheet of test episodes where the data set is at hand, learning curves.

    Args:
        runs: label and run.
        curves: their evaluations.
        lines: the runs, seeds as one.
        shown: the adaptation curves of these lines, and of shipped runs beside them.
        options: of the evaluations.
        alone: without published numbers.
    """
    groups = {group(loaded) for _, loaded in runs}
    points = published(runs[0][1]) if len(groups) == 1 and not alone else []
    drawn = [adaptation_curves(shown, points)]
    with contextlib.suppress(NoDataError):  # a report of shipped runs needs no pictures
        drawn.append(sheet(*runs[0], options))
    learning = learning_curves(lines)
    return drawn if learning is None else [*drawn, learning]


def sheet(label: str, loaded: Loaded, options: EvaluateOptions) -> Figure:
    """Test episodes: support, and queries with the predictions before and after adaptation."""
    learner = loaded.learner
    assert isinstance(learner, ImagesLearner)
    ways = min(learner.config.ways, 10)
    steps = learner.config.test_steps if options.steps is None else options.steps
    images = learner.source.classes("test").images.shape[1]
    queries = min(SHEET_QUERIES, images - learner.config.shots)
    tasks = learner.source.tasks("test", metarl.stream(0, "sheet"), SHEET_TASKS, queries).part()
    before, after = (learner.adapted.predictions(loaded.params, tasks, k) for k in (0, steps))
    rows: list[list[object]] = [["task", "query", "class", "before", "after"]]
    for t in range(SHEET_TASKS):
        for q, truth in enumerate(tasks.query.labels[t].tolist()):
            rows.append([t, q, truth, int(before[t, q]), int(after[t, q])])

    def paint(canvas: Canvas) -> None:
        grid = canvas.subplots(SHEET_TASKS * (1 + queries), ways, squeeze=False)
        for t in range(SHEET_TASKS):
            top = t * (1 + queries)
            for way in range(ways):
                _picture(grid[top][way], tasks, "support", t, way * learner.config.shots)
                grid[top][way].set_title(f"class {way}", fontsize=10)
                for k in range(queries):
                    q = way * queries + k
                    axes = grid[top + 1 + k][way]
                    _picture(axes, tasks, "query", t, q)
                    right = int(after[t, q]) == way
                    axes.set_title(
                        f"{int(before[t, q])} → {int(after[t, q])}{'' if right else ' ✗'}",
                        fontsize=10,
                        color=ink() if right else COLOURS[4],
                    )

    return draw(
        paint,
        name="episodes",
        title="Test episodes",
        caption=f"{label}: {SHEET_TASKS} test tasks. Above, an image of each class that the model "
        f"adapts on; below, new ones with the class predicted before → after {steps} gradient "
        "steps; ✗ marks what is wrong after adaptation.",
        rows=rows,
        size=(0.9 * ways + 0.5, 1.05 * SHEET_TASKS * (1 + queries)),
    )


def _picture(axes: object, tasks: Tasks, part: str, task: int, index: int) -> None:
    image = getattr(tasks, part).images[task, index].float().cpu()
    pixels = (1 - image[0]) if len(image) == 1 else image.movedim(0, -1)
    axes.imshow(torch.clamp(pixels, 0, 1).numpy(), cmap="gray", vmin=0, vmax=1)  # type: ignore[attr-defined]
    axes.set_axis_off()  # type: ignore[attr-defined]
