"""Navigation: where the point goes before and after each gradient step."""

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from metarl.rl.rollout import Rollout

from ..configs.rl import EvaluateOptions
from ..evaluation.evaluate import Loaded
from ..rl.learner import PolicyLearner
from ..rl.protocol import rollout_seed, steps_and_episodes
from ..words import count
from .style import COLOURS, Figure, draw, ink, plain_number
from .tasks import after, drawn_steps

TASKS = 3
EPISODES = 4  # drawn; the steps are taken on as many as the evaluation takes


def paths(label: str, loaded: Loaded, options: EvaluateOptions) -> Figure:
    """Paths of the first test tasks, a row for each number of steps, a column for each task.

    Args:
        label: of the run.
        loaded: the run.
        options: of its evaluation.
    """
    learner = loaded.learner
    assert isinstance(learner, PolicyLearner)
    config = learner.config
    few = TASKS if options.tasks is None else min(TASKS, options.tasks)
    tasks, drawn_with = learner.test_tasks(replace(options, tasks=few))
    steps, episodes = steps_and_episodes(config, options)
    sampler = learner.sampler(few, episodes)
    collected = learner.adapt(loaded.params, sampler, tasks, steps, rollout_seed(drawn_with))
    drawn = [positions(rollout, min(EPISODES, episodes)) for rollout in collected.rollouts]
    goals = [np.asarray(task["goal"]) for task in tasks]
    returns = collected.returns().tolist()
    shown = drawn_steps(steps if len(drawn) > 1 else 0)
    points = [path for of_tasks in drawn for episodes_of in of_tasks for path in episodes_of]
    sees = "is told" if config.observe_task else "does not see"
    reach = half_width(np.concatenate([goals, *points]))

    def paint(canvas: Canvas) -> None:
        panels = canvas.subplots(len(shown), few, sharex=True, sharey=True, squeeze=False)
        for row, k in enumerate(shown):
            for i, episodes_of in enumerate(drawn[k]):
                axes = panels[row, i]
                for path in episodes_of:
                    axes.plot(*path.T, color=COLOURS[0], linewidth=0.8, alpha=0.6)
                    axes.plot(*path[-1], ".", color=COLOURS[0], markersize=5)
                axes.plot(0, 0, "s", color=ink(), markersize=5)
                axes.plot(*goals[i], "*", color=COLOURS[4], markersize=13)
                axes.set_title(f"{after(k)}: {plain_number(returns[k][i])}", fontsize=10)
                axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        for axes in panels[-1]:
            axes.set_xlabel("x (m)")
        for axes in panels[:, 0]:
            axes.set_ylabel("y (m)")

    table: list[list[Any]] = [["steps", "task", "episode", "time", "x", "y"]]
    for k, of_tasks in enumerate(drawn):
        for i, episodes_of in enumerate(of_tasks):
            for j, path in enumerate(episodes_of):
                table += [[k, i, j, t, *map(float, point)] for t, point in enumerate(path)]
    return draw(
        paint,
        name="paths",
        title="Paths before and after each step",
        caption=f"{label}: {count(few, 'test task')}, {count(len(drawn[0][0]), 'episode')} of each "
        f"under the mean return of all {episodes}. Square: start; star: the goal, which the policy "
        f"{sees}; dots: ends of the episodes. The policy is stochastic.",
        rows=table,
        size=(6.6, 2.05 * len(shown) + 0.4),
    )


def half_width(points: np.ndarray) -> float:
    """Metres that are drawn on each side of the origin, for all points ``(n, 2)`` to be seen."""
    return max(1.0, 1.05 * float(np.abs(points).max()))


def positions(rollout: Rollout, episodes: int) -> list[list[np.ndarray]]:
    """Path ``(time + 1, 2)`` of each task's first episodes, the final position included."""
    observations = rollout.observations[..., :2].cpu().numpy()
    final = rollout.final_observations[..., :2].cpu().numpy()
    lengths = rollout.mask.sum(-1).long().tolist()
    return [
        [
            np.concatenate((observations[i, j, : lengths[i][j]], final[i, j, None]))
            for j in range(episodes)
        ]
        for i in range(len(observations))
    ]
