"""Episodes with pictures: adapted policies played once on each task."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import metarl
from metarl.errors import InputError
from metarl.rl import vector
from metarl.rl.actions import action_map
from metarl.rl.distributions import sample
from metarl.rl.noise import draw_noise

from ..configs.rl import EvaluateOptions
from ..evaluation.evaluate import Loaded
from ..graphics import pictures_of
from .environments import make_drawn
from .learner import PolicyLearner
from .protocol import rollout_seed, steps_and_episodes

Task = dict[str, Any]
TIMEOUT = 60.0


class Episode(NamedTuple):
    """One task, one policy.

    Attributes:
        pictures: ``(height, width, 3)`` each, at every ``stride``-th time and at the end.
        times: time step of each picture.
        returns: ``(time + 1,)`` undiscounted return so far, from 0.
        motion: what the environment tells of ``"velocity"`` and ``"position"``, ``(time, ...)``.
    """

    pictures: list[NDArray[np.uint8]]
    times: list[int]
    returns: NDArray[np.float64]
    motion: dict[str, NDArray[np.float64]]


def learner_of(loaded: Loaded) -> PolicyLearner:
    """The run's learner, if it is a policy's.

    Raises:
        InputError: it is not.
    """
    if not isinstance(loaded.learner, PolicyLearner):
        raise InputError(f"RUN: {loaded.experiment.name} has no environment to draw")
    return loaded.learner


def spread_tasks(learner: PolicyLearner, count: int, options: EvaluateOptions) -> list[Task]:
    """Test tasks that differ: spread over a task's number where it is one, else the first ones."""
    tasks, _ = learner.test_tasks(options)
    values = [value for task in tasks for value in task.values()]
    if len(values) > len(tasks) or not all(isinstance(value, int | float) for value in values):
        return tasks[:count]
    distinct = [tasks[values.index(value)] for value in sorted(set(values))]
    chosen = np.linspace(0, len(distinct) - 1, min(count, len(distinct)))
    return [distinct[round(i)] for i in chosen]


def play(
    loaded: Loaded,
    tasks: Sequence[Task],
    steps: Sequence[int],
    options: EvaluateOptions,
    *,
    seed: int,
    stride: int,
) -> list[list[Episode]]:
    """Adapt to each task and play an episode after each of ``steps`` numbers of gradient steps.

    Args:
        loaded: the run.
        tasks: rows of the result.
        steps: columns of the result.
        options: of the evaluation, whose episodes before each step are taken.
        seed: keys the rollouts that adapt, and the episodes.
        stride: time steps from picture to picture.

    Raises:
        InputError: the environment has no pictures, or what draws them is missing.
    """
    learner = learner_of(loaded)
    config = learner.config
    rows = len(tasks) * len(steps)
    env = make_drawn(config.env, rows, observe_task=config.observe_task)
    try:
        _, episodes = steps_and_episodes(config, options)
        sampler = learner.sampler(len(tasks), episodes)
        path = learner.adapt(loaded.params, sampler, tasks, max(steps), rollout_seed(seed)).path
        params = {
            name: torch.stack([path[k][name] for k in steps], 1).flatten(0, 1) for name in path[0]
        }
        vector.set_tasks(env, [task for task in tasks for _ in steps], timeout=TIMEOUT)
        played = _play(env, learner, params, seed=seed, stride=stride)
    finally:
        env.close()
    return [played[i : i + len(steps)] for i in range(0, rows, len(steps))]


@torch.no_grad()
def _play(
    env: Any, learner: PolicyLearner, params: metarl.Params, *, seed: int, stride: int
) -> list[Episode]:
    policy = torch.func.vmap(learner.apply)
    to_env = action_map(env.single_action_space)
    like = next(iter(params.values()))
    noise = metarl.stream(seed, "render-noise")
    start = metarl.seed_of(seed, "render-reset")
    rows = env.num_envs
    observations = vector.reset(env, seed=start, first=0, total=rows, timeout=TIMEOUT)
    pictures = [[picture] for picture in pictures_of(env)]
    times: list[list[int]] = [[0] for _ in range(rows)]
    rewards: list[list[float]] = [[0.0] for _ in range(rows)]
    motion: list[dict[str, list[Any]]] = [{} for _ in range(rows)]
    live = np.ones(rows, dtype=bool)
    everyone = live.copy()
    for t in range(1, learner.config.env.horizon + 1):
        distribution = policy(params, torch.as_tensor(observations).to(like))
        drawn = draw_noise(noise, distribution, *distribution[0].shape[:-1])
        actions = sample(distribution, torch.as_tensor(drawn).to(like))
        step = vector.step(env, to_env(actions.cpu().numpy()), timeout=TIMEOUT)
        observations, infos = step.observations, step.infos
        ended = step.terminated | step.truncated | step.invalid
        last = live & (ended | (t == learner.config.env.horizon))
        shown = live & ((t % stride == 0) | last)
        now = pictures_of(env) if shown.any() else ()
        for row in np.flatnonzero(live):
            rewards[row].append(0.0 if step.invalid[row] else float(step.rewards[row]))
            for name in ("velocity", "position"):
                if name in infos and infos.get(f"_{name}", everyone)[row]:
                    motion[row].setdefault(name, []).append(infos[name][row])
            if shown[row]:
                pictures[row].append(now[row])
                times[row].append(t)
        live &= ~last
        if not live.any():
            break
        if ended.any():
            observations = vector.restart(env, step, ended, timeout=TIMEOUT)
    return [
        Episode(
            pictures[row],
            times[row],
            np.cumsum(rewards[row]),
            # What an environment tells only now and then cannot be drawn step by step.
            {n: np.array(x) for n, x in motion[row].items() if len(x) == len(rewards[row]) - 1},
        )
        for row in range(rows)
    ]
