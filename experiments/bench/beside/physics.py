"""Physics alone: ready controls, no policy, no sensors, no rewards."""

from collections.abc import Callable
from typing import Any

import gymnasium
import mujoco
import numpy as np
from mujoco.rollout import Rollout

import metarl_envs


def raw_physics(
    env_id: str, physics: str, *, rows: int, steps: int, cores: int
) -> Callable[[], int]:
    """One `mujoco.rollout` call per step, on all cores; the call returns the steps taken."""
    assert env_id in metarl_envs.WORLDS  # its import registers the environments
    env: Any = gymnasium.make_vec(env_id, num_envs=1, physics=physics)
    model, substeps = env.world.model, env.world.physics.substeps
    rng = np.random.default_rng(0)
    start = env.world.start(rows, rng)
    controls = rng.standard_normal((rows, steps, model.nu)).clip(-1, 1)
    # One contiguous block a step, ready to be used.
    ready = np.repeat(controls.swapaxes(0, 1)[:, :, None], substeps, axis=2).copy()
    states = np.empty((rows, substeps, start.shape[1]))
    pool = Rollout(nthread=cores if cores > 1 else 0)
    data = [mujoco.MjData(model) for _ in range(cores)]
    models = [model] * rows

    def run() -> int:
        now = start.copy()
        for control in ready:
            pool.rollout(models, data, now, control, nstep=substeps, state=states, skip_checks=True)
            now = states[:, -1].copy()
        return rows * steps

    return run
