"""The one place that steps gymnasium's vector environments and gives them tasks.

There are three kinds of them:

- With ``block_starts = True``, as metarl's own: reset takes one seed and ``options["block"] =
  (first, total)``, draws the starting noise of ``total`` environments and uses that of its rows. An
  environment that ended stays as it is while the others are stepped.
- Gymnasium's ``SyncVectorEnv`` and ``AsyncVectorEnv``: one seed for each environment; those that
  ended are reset before the next step, by ``options["reset_mask"]``.
- Any others: one seed for each group of rows, and ``reset_mask``.

With the first two kinds row ``r`` starts alike however rows are spread over vector environments;
with the first, below 4096 rows, only if ``total``, which counts padding, is the same too. Every
receive from a worker process has a time limit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from metarl.errors import InputError

from .workers import limited, receiving

Task = dict[str, Any]

# numpy's older generators, which environments may hold, take no seed above.
_SEEDS = 2**32


class Step(NamedTuple):
    """What a vector environment returns; rows are environments."""

    observations: NDArray[Any]  # (row, feature)
    rewards: NDArray[np.float64]  # (row,)
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    invalid: NDArray[np.bool_]  # the physics diverged: this step counts for nothing
    infos: dict[str, Any]  # as gymnasium's vector environments give them


def check_vector(env: VectorEnv[Any, Any, Any]) -> None:
    """Refuse what the sampler cannot use.

    Raises:
        InputError: it resets by itself, which puts dummy transitions into the data, or a wrapper
            hides worker processes, whose time limits could then not be kept.
    """
    if isinstance(env.unwrapped, AsyncVectorEnv) and env is not env.unwrapped:
        raise InputError(
            f"{type(env).__name__} wraps an AsyncVectorEnv: wrap its members instead, in the "
            "functions that make them"
        )
    # The environment's own word first: gymnasium below 1.4 writes that of the vector environment
    # made last into metadata that all of a class share.
    mode = getattr(env.unwrapped, "autoreset_mode", env.metadata.get("autoreset_mode"))
    if mode != AutoresetMode.DISABLED:
        raise InputError(
            f"the vector environment has autoreset_mode={mode}; build it with "
            "autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED"
        )


def sample_tasks(
    env: VectorEnv[Any, Any, Any], n: int, rng: np.random.Generator, *, timeout: float
) -> list[Task]:
    """``env.sample_tasks(n, rng)`` of the vector environment itself or of its first member.

    Raises:
        InputError: neither has this method.
        WorkerError: a worker process does not answer.
    """
    base = env.unwrapped
    if hasattr(base, "sample_tasks"):
        tasks: list[Task] = base.sample_tasks(n, rng)
        return tasks
    # A worker process cannot advance this process's generator: it gets one of its own.
    seed = int(rng.integers(2**63))
    if isinstance(base, AsyncVectorEnv):
        with receiving(base, timeout, "sampling tasks"):
            # Asked first: a worker ends, and gymnasium prints its traceback, where it lacks it.
            base.call_async("has_wrapper_attr", "sample_tasks")
            if base.call_wait(timeout)[0]:
                base.call_async("sample_tasks", n, np.random.default_rng(seed))
                return list(base.call_wait(timeout)[0])
    elif isinstance(base, SyncVectorEnv) and base.envs[0].has_wrapper_attr("sample_tasks"):
        method = base.envs[0].get_wrapper_attr("sample_tasks")
        return list(method(n, np.random.default_rng(seed)))
    raise InputError(
        f"{_name(base)} has no method sample_tasks(n, rng), so there are no tasks to learn from: "
        "docs/writing.md shows how to write it, `metarl check` says what else is missing"
    )


def set_tasks(
    env: VectorEnv[Any, Any, Any], tasks: Sequence[Task | None], *, timeout: float
) -> None:
    """Give row ``r`` the task ``tasks[r]``; where one is None, every row keeps its own.

    Raises:
        InputError: a member has no attribute ``task``, of which gymnasium would make one that
            nobody reads, or the vector environment no method ``set_attr``.
        WorkerError: a worker process does not answer.
    """
    if any(task is None for task in tasks):
        return
    base = env.unwrapped
    if isinstance(base, AsyncVectorEnv):
        with receiving(base, timeout, "setting tasks"):
            base.call_async("has_wrapper_attr", "task")
            _check_task(base, all(base.call_wait(timeout)))
            # Gymnasium's set_attr waits without limit, so a thread of our own does the waiting.
            limited(lambda: base.set_attr("task", list(tasks)), timeout)
        return
    if isinstance(base, SyncVectorEnv):
        _check_task(base, all(one.has_wrapper_attr("task") for one in base.envs))
    elif not hasattr(base, "set_attr"):
        raise InputError(
            f"{_name(base)} has no method set_attr(name, values), by which its rows get their tasks"
        )
    base.set_attr("task", list(tasks))


def _check_task(env: VectorEnv[Any, Any, Any], held: bool) -> None:
    if not held:
        raise InputError(
            f"{_name(env)} has no attribute task, so that all its tasks would be one: set it in "
            "the environment's __init__, and read it in step (docs/writing.md)"
        )


def _name(env: VectorEnv[Any, Any, Any]) -> str:
    return type(env).__name__ if env.spec is None else str(env.spec.id)


def reset(
    env: VectorEnv[Any, Any, Any], *, seed: int, first: int, total: int, timeout: float
) -> NDArray[Any]:
    """Start rows ``first .. first + num_envs`` of ``total``: observations ``(row, feature)``."""
    base = env.unwrapped
    if isinstance(base, (SyncVectorEnv, AsyncVectorEnv)):
        seeds = [(seed + first + i) % _SEEDS for i in range(env.num_envs)]
        return _reset(env, {"seed": seeds}, timeout)
    if _block_starts(env):
        return _reset(env, {"seed": seed, "options": {"block": (first, total)}}, timeout)
    return _reset(env, {"seed": (seed + first) % _SEEDS}, timeout)


def restart(
    env: VectorEnv[Any, Any, Any], step: Step, ended: NDArray[np.bool_], *, timeout: float
) -> NDArray[Any]:
    """Make the rows that ended fit to be stepped along: observations of all rows."""
    if _block_starts(env):
        return step.observations
    return _reset(env, {"options": {"reset_mask": ended}}, timeout)


def _block_starts(env: VectorEnv[Any, Any, Any]) -> bool:
    return bool(getattr(env.unwrapped, "block_starts", False))


def step(env: VectorEnv[Any, Any, Any], actions: NDArray[Any], *, timeout: float) -> Step:
    """One step of every row."""
    base = env.unwrapped
    if isinstance(base, AsyncVectorEnv):
        with receiving(base, timeout, "stepping"):
            base.step_async(actions)
            observations, rewards, terminated, truncated, infos = base.step_wait(timeout)
    else:
        observations, rewards, terminated, truncated, infos = env.step(actions)
    diverged = infos.get("diverged")
    if diverged is None:
        diverged = np.zeros(env.num_envs, dtype=np.bool_)
    # Whole numbers for flags would count as row numbers where they choose rows.
    ended, cut, invalid = (np.asarray(x, dtype=np.bool_) for x in (terminated, truncated, diverged))
    return Step(np.asarray(observations), np.asarray(rewards), ended, cut, invalid, infos)


def _reset(env: VectorEnv[Any, Any, Any], kwargs: dict[str, Any], timeout: float) -> NDArray[Any]:
    base = env.unwrapped
    if isinstance(base, AsyncVectorEnv):
        with receiving(base, timeout, "resetting"):
            base.reset_async(**kwargs)
            observations, _ = base.reset_wait(timeout)
    else:
        observations, _ = env.reset(**kwargs)
    return np.asarray(observations)
