"""Physics alone: ready controls, no policy, no sensors, no rewards."""

from collections.abc import Callable
from typing import Any

import gymnasium
import mujoco
import numpy as np
from mujoco.rollout import Rollout
from numpy.typing import NDArray
from torch import nn

import metarl_envs
from metarl.params import Params
from metarl.rl.sampler import Sampler


def played_controls(
    sampler: Sampler, policy: nn.Module, params: Params, *, collections: int = 1
) -> NDArray[np.float64]:
    """What a policy has the actuators do, ``(collection, row, time, actuator)``.

    The cost of a physics step depends on it: an untrained policy's actions are often at their
    limits, where more touches the ground than with standard normal ones.

    Args:
        sampler: with tasks set, of actions within [-1, 1] that are the controls.
        policy: as `Sampler.collect` takes it.
        params: likewise.
        collections: of ``task * episode`` rows.
    """
    played = []
    for seed in range(collections):
        actions = sampler.collect(policy, params, seed=seed)[0].actions
        played.append(actions.flatten(0, 1).double().clamp(-1, 1).cpu().numpy())
    return np.stack(played)


def raw_physics(
    env_id: str, physics: str, controls: NDArray[np.float64], *, cores: int
) -> Callable[[], int]:
    """One `mujoco.rollout` call per step, on all cores; the call returns the steps taken.

    Args:
        env_id: of a world of `metarl_envs`.
        physics: its variant.
        controls: as `played_controls` gives them; every collection starts anew.
        cores: threads of the rollout.
    """
    assert env_id in metarl_envs.WORLDS  # its import registers the environments
    env: Any = gymnasium.make_vec(env_id, num_envs=1, physics=physics)
    model, substeps = env.world.model, env.world.physics.substeps
    rows, taken = controls.shape[1], controls[..., 0].size
    start = env.world.start(rows, np.random.default_rng(0))
    # One contiguous block a step, ready to be used.
    ready = np.repeat(controls.swapaxes(1, 2)[:, :, :, None], substeps, axis=3).copy()
    states = np.empty((rows, substeps, start.shape[1]))
    pool = Rollout(nthread=cores if cores > 1 else 0)
    data = [mujoco.MjData(model) for _ in range(cores)]
    models = [model] * rows

    def run() -> int:
        for blocks in ready:
            now = start.copy()
            for control in blocks:
                pool.rollout(
                    models, data, now, control, nstep=substeps, state=states, skip_checks=True
                )
                now = states[:, -1].copy()
        return taken

    return run
