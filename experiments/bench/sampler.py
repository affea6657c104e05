"""Speed of the whole sampler against the physics alone, and against gymnasium's own batch."""

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import nn

import metarl_envs
from metarl.devices import available_cores
from metarl.params import Params, expand_params, from_module
from metarl.rl.making import make_halves
from metarl.rl.policies import GaussianMLP
from metarl.rl.sampler import Sampler
from metarl_envs.quiet import quiet_mujoco

from .parts.physics import played_controls, raw_physics
from .parts.timing import medians

CHEETAH = "metarl/HalfCheetahVelocity-v0"
TASKS, EPISODES = 40, 20
STEPS = {"paper": 200, "gym": 60}
SYNC_ENVS, SYNC_STEPS = 16, 100


def sampler_bench(
    repetitions: int = 5,
    *,
    tasks: int = TASKS,
    episodes: int = EPISODES,
    steps: dict[str, int] = STEPS,
    sync_steps: int = SYNC_STEPS,
) -> dict[str, float]:
    """Ratios of environment steps per second, medians interleaved in one process.

    - ``paper/raw``, ``gym/raw``: `Sampler.collect` (policy, noise, rewards, bookkeeping) at 40 x 20
      cheetahs, against one `mujoco.rollout` call per step of as many with the same policy's
      controls and no sensors, on all cores.
    - ``gym/sync``: the same against a ``SyncVectorEnv`` of gymnasium's HalfCheetah-v5 with ready
      actions and no policy.
    """
    assert metarl_envs.WORLDS  # its import registers the environments
    cores, rows = available_cores(), tasks * episodes
    runs: dict[str, Callable[[], object]] = {"sync": _sync(sync_steps)}
    for physics, horizon in steps.items():
        collection = _collection(physics, tasks, episodes, horizon, cores)
        runs[physics] = functools.partial(_collect, *collection)
        controls = played_controls(*collection)
        runs[f"{physics} raw"] = raw_physics(CHEETAH, physics, controls, cores=cores)
    seconds = medians(runs, repetitions)
    sync = SYNC_ENVS * sync_steps / seconds["sync"]
    return {
        **{f"{physics}/raw": seconds[f"{physics} raw"] / seconds[physics] for physics in steps},
        "gym/sync": rows * steps["gym"] / seconds["gym"] / sync,
    }


def _collection(
    physics: str, tasks: int, episodes: int, horizon: int, cores: int
) -> tuple[Sampler, nn.Module, Params]:
    envs: Any = make_halves(
        CHEETAH, tasks=tasks, episodes=episodes, threads=cores, physics=physics, horizon=horizon
    )
    sampler = Sampler(envs, episodes=episodes, horizon=horizon)
    sampler.set_tasks(sampler.sample_tasks(tasks, np.random.default_rng(0)))
    generator = torch.Generator().manual_seed(0)
    observations, actions = envs[0].single_observation_space, envs[0].single_action_space
    policy = GaussianMLP(observations.shape[0], actions.shape[0], generator=generator)
    # Parameters of each task's own, as after adapting; shared ones would cost less.
    shared = expand_params(from_module(policy)[0], tasks)
    params = {name: p.detach().clone() for name, p in shared.items()}
    return sampler, policy, params


def _collect(sampler: Sampler, policy: nn.Module, params: Params) -> None:
    sampler.collect(policy, params, seed=0)


def _sync(steps: int) -> Callable[[], object]:
    with quiet_mujoco():  # the model file has a deprecated attribute
        env = SyncVectorEnv(
            [lambda: gymnasium.make("HalfCheetah-v5")] * SYNC_ENVS,
            autoreset_mode=AutoresetMode.DISABLED,
        )
    actions = np.random.default_rng(0).standard_normal((steps, SYNC_ENVS, 6)).clip(-1, 1)

    def run() -> None:
        env.reset(seed=0)
        for action in actions.astype(np.float32):
            env.step(action)

    return run
