"""Gymnasium's half cheetah to the bit, however the pool hands rows to its threads."""

import functools
from types import SimpleNamespace
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
import pytest
from test_envs_gymnasium import ROWS, reference

STEPS = 200


class Played(NamedTuple):
    """What gymnasium's own environments did, from the same starts under the same controls."""

    starts: np.ndarray  # (row, state), as the native environment draws them
    actions: np.ndarray  # (time, row, action)
    observations: np.ndarray  # (time, row, feature)
    rewards: np.ndarray  # (time, row)
    ends: np.ndarray  # (row, position)


@functools.cache
def played_alone() -> Played:
    envs = cheetahs(1)
    starts = envs.unwrapped._states.copy()
    envs.close()
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, ROWS, 6))
    env = reference("HalfCheetah-v5", ctrl_cost_weight=0.05)
    observations, rewards, ends = [], [], []
    for row in range(ROWS):
        env.reset()
        env.set_state(starts[row, 1:10], starts[row, 10:])
        steps = [env.step(action) for action in actions[:, row]]
        observations.append([step[0].astype(np.float32) for step in steps])
        rewards.append([step[1] for step in steps])
        ends.append(env.data.qpos.copy())
    return Played(
        starts,
        actions,
        np.array(observations).swapaxes(0, 1),
        np.array(rewards).T,
        np.array(ends),
    )


def cheetahs(threads: int) -> Any:
    """Just reset, and all told to run forwards."""
    envs = gymnasium.make_vec(
        "metarl/HalfCheetahDirection-v0", num_envs=ROWS, physics="gym", threads=threads
    )
    envs.set_attr("task", [{"direction": 1.0}] * ROWS)
    envs.reset(seed=0)
    return envs


def chunked(envs: Any, size: int | None, *, mixed_up: bool = False) -> Any:
    """The same environments, whose pool hands so many rows to a thread at a time."""
    physics = envs.unwrapped.world.physics
    pool = physics._pool

    def rollout(model: Any, data: Any, states: Any, control: Any, **options: Any) -> Any:
        if mixed_up and size is not None:  # mutant: a chunk moves as its first row is told to
            control = np.ascontiguousarray(control[np.arange(len(control)) // size * size])
        return pool.rollout(model, data, states, control, chunk_size=size, **options)

    physics._pool = SimpleNamespace(rollout=rollout, close=pool.close)
    return envs


def equals_gymnasium(envs: Any) -> bool:
    """Every bit of 200 steps: observations, rewards, where it ends."""
    truth = played_alone()
    assert np.array_equal(envs.unwrapped._states, truth.starts)
    same = True
    for t, action in enumerate(truth.actions):
        observations, rewards, *_ = envs.step(action)
        same &= np.array_equal(observations, truth.observations[t])
        same &= bool((rewards - truth.rewards[t] == 0.0).all())
    same &= np.array_equal(envs.unwrapped._states[:, 1:10], truth.ends)
    envs.close()
    return same


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, ROWS, None])
def test_cheetah_equals_half_cheetah_v5_in_any_chunks(threads: int, size: int | None) -> None:
    assert equals_gymnasium(chunked(cheetahs(threads), size))


def test_mutants_of_chunks_part_from_gymnasium() -> None:
    assert not equals_gymnasium(chunked(cheetahs(2), 3, mixed_up=True))
    warm = chunked(cheetahs(2), 3)
    warm.unwrapped.world.model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_WARMSTART)
    assert not equals_gymnasium(warm)
