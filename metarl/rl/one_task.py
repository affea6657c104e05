"""The sampler of one task, on whatever environment is at hand."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import Error as GymnasiumError
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from metarl.errors import InputError
from metarl.streams import stream

from .making import not_found
from .sampler import Sampler
from .vector import Task

Env = gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any] | str
# Copies of an environment made by its id: so many rows at most share a call of the policy.
ROWS = 32


@contextmanager
def one_task_sampler(
    env: Env,
    *,
    episodes: int,
    horizon: int,
    task: Task | None,
    seed: int,
    options: Mapping[str, Any],
) -> Iterator[tuple[Sampler, Task | None]]:
    """Sampler of one task, and the task to give to ``set_tasks``: None is what ``env`` holds.

    Args:
        env: an environment or a vector environment, which stays open; all rows of the latter play
            the same task. An id is made, and closed at the end.
        episodes: of the task.
        horizon: most steps of an episode.
        task: set in the environment. None keeps the one it holds; of an id one is drawn.
        seed: draws it.
        options: for ``gymnasium.make_vec``, with an id.

    Raises:
        InputError: no such environment, or it does not fit a sampler.
    """
    if isinstance(env, str):
        groups = -(-episodes // ROWS)
        vector = _make(env, -(-episodes // groups), options)  # so that few rows are padding
        try:
            sampler = Sampler(vector, episodes=episodes, horizon=horizon)
            if task is None and vector.envs[0].has_wrapper_attr("sample_tasks"):
                (task,) = sampler.sample_tasks(1, stream(seed, "task"))
            yield sampler, task
        finally:
            vector.close()
        return
    if isinstance(env, VectorEnv):
        if task is None:
            _check_held(env)
        yield Sampler(env, episodes=episodes, horizon=horizon), task
        return
    if not isinstance(env, gymnasium.Env):
        raise InputError(
            f"env is a {type(env).__name__}: give a gymnasium environment, a gymnasium vector "
            "environment or an id"
        )
    # The vector environment writes into its members' metadata, which belong to their class.
    held: gymnasium.Env[Any, Any] = gymnasium.Wrapper(env)
    held.metadata = dict(env.metadata)
    rows = SyncVectorEnv([lambda: held], autoreset_mode=AutoresetMode.DISABLED)
    # Before gymnasium 1.3 one that is collected closes its members, and this one is the caller's.
    rows.closed = True
    yield Sampler(rows, episodes=episodes, horizon=horizon), task


def _make(name: str, rows: int, options: Mapping[str, Any]) -> SyncVectorEnv:
    try:
        made = gymnasium.make_vec(
            name,
            num_envs=rows,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
            **options,
        )
    except (GymnasiumError, ImportError) as error:
        raise not_found(name, error) from None
    except (TypeError, ValueError) as error:
        given = f" with {dict(options)}" if options else ""
        raise InputError(f"{name} cannot be made{given}: {error}") from None
    assert isinstance(made, SyncVectorEnv)
    return made


def _check_held(env: VectorEnv[Any, Any, Any]) -> None:
    """Refuse rows that would play different tasks; worker processes are not asked."""
    base = env.unwrapped
    if isinstance(base, AsyncVectorEnv):
        return
    if isinstance(base, SyncVectorEnv):
        members = [one for one in base.envs if one.has_wrapper_attr("task")]
        tasks = [one.get_wrapper_attr("task") for one in members]
    else:
        tasks = [None] if (held := getattr(base, "task", ())) is None else list(held)
    if any(task is None for task in tasks) or any(not _same(task, tasks[0]) for task in tasks[1:]):
        raise InputError(
            "the rows of the vector environment do not hold one task: set it, or give task="
        )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)
    return np.array_equal(one, other)  # a user's task may be anything
