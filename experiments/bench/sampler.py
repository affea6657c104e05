"""Speed of the whole sampler against the physics alone, and against gymnasium's own batch."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from mujoco.rollout import Rollout

import metarl_envs
from metarl.params import expand_params, from_module
from metarl.rl.policies import GaussianMLP
from metarl.rl.sampler import Sampler
from metarl.rl.vector import available_cores, make_halves
from metarl_envs.quiet import quiet_mujoco

TASKS, EPISODES = 40, 20
STEPS = {"paper": 200, "gym": 60}
SYNC_ENVS, SYNC_STEPS = 16, 100


def sampler_bench(repetitions: int = 5) -> dict[str, float]:
    """Median ratios of environment steps per second, everything interleaved in one process.

    - ``paper/raw``, ``gym/raw``: `Sampler.collect` (policy, noise, rewards, bookkeeping) at 40 x 20
      cheetahs, against one `mujoco.rollout` call per step of as many with ready controls and no
      sensors, on all cores.
    - ``gym/sync``: the same against a ``SyncVectorEnv`` of gymnasium's HalfCheetah-v5 with ready
      actions and no policy.
    """
    assert metarl_envs.WORLDS  # its import registers the environments
    cores = available_cores()
    samplers = {physics: _sampler(physics, cores) for physics in STEPS}
    raws = {physics: _raw(physics, cores) for physics in STEPS}
    sync = _sync()
    ratios: dict[str, list[float]] = {}
    for _ in range(repetitions + 1):
        speeds = {f"{physics}/raw": (samplers[physics], raws[physics]) for physics in STEPS}
        for name, (ours, alternative) in speeds.items():
            ratios.setdefault(name, []).append(ours() / alternative())
        ratios.setdefault("gym/sync", []).append(samplers["gym"]() / sync())
    # The first repetition warms up.
    return {name: statistics.median(values[1:]) for name, values in ratios.items()}


def _speed(run: Callable[[], int]) -> float:
    """Environment steps per second of a call that returns how many it took."""
    start = time.perf_counter()
    steps = run()
    return steps / (time.perf_counter() - start)


def _sampler(physics: str, cores: int) -> Callable[[], float]:
    envs: Any = make_halves(
        "metarl/HalfCheetahVelocity-v0",
        tasks=TASKS,
        episodes=EPISODES,
        threads=cores,
        physics=physics,
    )
    sampler = Sampler(envs, episodes=EPISODES, horizon=STEPS[physics])
    sampler.set_tasks(sampler.sample_tasks(TASKS, np.random.default_rng(0)))
    generator = torch.Generator().manual_seed(0)
    observations, actions = envs[0].single_observation_space, envs[0].single_action_space
    policy = GaussianMLP(observations.shape[0], actions.shape[0], generator=generator)
    # Parameters of each task's own, as after adapting; shared ones would cost less.
    shared = expand_params(from_module(policy)[0], TASKS)
    params = {name: p.detach().clone() for name, p in shared.items()}
    return lambda: _speed(lambda: sampler.collect(policy, params, seed=0)[1].env_steps)


def _raw(physics: str, cores: int) -> Callable[[], float]:
    rows, steps = TASKS * EPISODES, STEPS[physics]
    env: Any = gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", num_envs=1, physics=physics)
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

    return lambda: _speed(run)


def _sync() -> Callable[[], float]:
    with quiet_mujoco():  # the model file has a deprecated attribute
        env = SyncVectorEnv(
            [lambda: gymnasium.make("HalfCheetah-v5")] * SYNC_ENVS,
            autoreset_mode=AutoresetMode.DISABLED,
        )
    actions = np.random.default_rng(0).standard_normal((SYNC_STEPS, SYNC_ENVS, 6)).clip(-1, 1)

    def run() -> int:
        env.reset(seed=0)
        for action in actions.astype(np.float32):
            env.step(action)
        return SYNC_ENVS * SYNC_STEPS

    return lambda: _speed(run)
