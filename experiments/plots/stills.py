"""Locomotion: the same moments of an episode before and after adaptation, side by side."""

import warnings

from matplotlib.figure import Figure as Canvas

from metarl.errors import InputError

from ..configs.rl import EvaluateOptions
from ..evaluation.evaluate import Loaded
from ..rl.cells import words
from ..rl.episodes import learner_of, play, spread_tasks
from ..rl.protocol import steps_and_episodes
from .style import Figure, draw, plain_number
from .tasks import after

MOMENTS = 4


def stills(label: str, loaded: Loaded, options: EvaluateOptions) -> Figure | None:
    """Pictures of one test task, a row for each number of steps.

    Args:
        label: of the run.
        loaded: the run.
        options: of its evaluation.

    Returns:
        None, with a warning, where no OpenGL draws them.
    """
    config = learner_of(loaded).config
    tasks = spread_tasks(learner_of(loaded), 2, options)[-1:]
    steps = sorted({0, steps_and_episodes(config, options)[0]})
    stride = max(1, config.env.horizon // MOMENTS)
    try:
        (row,) = play(loaded, tasks, steps, options, seed=0, stride=stride)
    except InputError as error:
        warnings.warn(f"the page has no stills: {error}", stacklevel=2)
        return None
    columns = max(len(episode.pictures) for episode in row)

    def paint(canvas: Canvas) -> None:
        panels = canvas.subplots(len(row), columns, squeeze=False)
        for axes in panels.flat:
            axes.axis("off")
        for i, episode in enumerate(row):
            for j, (picture, t) in enumerate(zip(episode.pictures, episode.times, strict=True)):
                panels[i, j].imshow(picture)
                told = f"{after(steps[i])}\nstep {t}" if j == 0 else f"step {t}"
                panels[i, j].set_title(told, fontsize=9)

    rows: list[list[object]] = [["gradient_steps", "step", "return_so_far"]]
    for k, episode in zip(steps, row, strict=True):
        rows += [[k, t, float(value)] for t, value in enumerate(episode.returns)]
    told = ", ".join(
        f"{after(k)} {plain_number(episode.returns[-1])}"
        for k, episode in zip(steps, row, strict=True)
    )
    return draw(
        paint,
        name="stills",
        title="An episode before and after adaptation",
        caption=f"{label}: one episode of a test task ({words(tasks[0])}); returns: {told}. The "
        "camera follows the body; `metarl render` makes a film of it.",
        rows=rows,
        size=(1.75 * columns, 2.1 * len(row) + 0.2),
    )
