"""Samplers on the environment of a configuration."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import Error as GymnasiumError
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv

import metarl_envs
from metarl.errors import InputError
from metarl.rl.policies import CategoricalMLP, GaussianMLP
from metarl.rl.sampler import Sampler
from metarl.rl.vector import make_halves

from .catalog import package_data
from .configs.rl import Config, EnvConfig

# Rows that are stepped together where every environment is an object of its own.
PLAIN_ROWS = 64
PAPER_GOALS = {
    "metarl/Navigation2D-v0": ("navigation", "goal"),
    "metarl/HalfCheetahVelocity-v0": ("cheetah-velocity", "velocity"),
    "metarl/HalfCheetahDirection-v0": ("cheetah-direction", "direction"),
    "metarl/AntVelocity-v0": ("ant-velocity", "velocity"),
    "metarl/AntDirection-v0": ("ant-direction", "direction"),
}


def make_sampler(
    env: EnvConfig, *, tasks: int, episodes: int, observe_task: bool, threads: int
) -> Sampler:
    """Sampler of ``tasks`` x ``episodes`` on the configured environment.

    Raises:
        InputError: no such environment, or options that it does not take.
    """
    try:
        envs = _make(env, tasks, episodes, observe_task, threads)
    except InputError:
        raise
    except (GymnasiumError, ModuleNotFoundError) as error:
        raise InputError(f"--env.id {env.id}: {str(error).splitlines()[0]}") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"--env: {env.id} refuses its options: {error}") from None
    return Sampler(envs, episodes=episodes, horizon=env.horizon)


def _make(
    env: EnvConfig, tasks: int, episodes: int, observe_task: bool, threads: int
) -> list[VectorEnv[Any, Any, Any]]:
    if env.id in metarl_envs.WORLDS:
        options: dict[str, Any] = {
            "physics": env.physics,
            "horizon": env.horizon,
            "observe_task": observe_task,
        }
        if env.task_range is not None:
            options["task_range"] = env.task_range
        if env.sparse:
            options["sparse"] = True
        return make_halves(env.id, tasks=tasks, episodes=episodes, threads=threads, **options)
    own = {"physics": env.physics != "paper", "task_range": env.task_range, "sparse": env.sparse}
    for name, given in {**own, "observe_task": observe_task}.items():
        if given:
            raise InputError(f"--env.{name.replace('_', '-')}: is for metarl's own environments")
    vectorization = "async" if env.workers else "sync"
    made = gymnasium.make_vec(
        env.id,
        num_envs=env.workers or min(tasks * episodes, PLAIN_ROWS),
        vectorization_mode=vectorization,
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
    )
    return [made]


def make_policy(config: Config, sampler: Sampler, generator: Any) -> GaussianMLP | CategoricalMLP:
    """Policy for the sampler's spaces: Gaussian for boxes, categorical for discrete actions."""
    spaces = sampler.envs[0]
    observation, action = spaces.single_observation_space, spaces.single_action_space
    assert isinstance(observation, Box)
    if isinstance(action, Discrete):
        return CategoricalMLP(
            observation.shape[0],
            int(action.n),
            hidden=config.hidden,
            activation=config.activation,
            generator=generator,
        )
    assert isinstance(action, Box)
    return GaussianMLP(
        observation.shape[0],
        action.shape[0],
        hidden=config.hidden,
        activation=config.activation,
        init_std=config.init_std,
        min_std=config.min_std,
        generator=generator,
    )


def paper_tasks(env: EnvConfig) -> list[dict[str, Any]] | None:
    """The goals that the paper evaluates on; None where it has none."""
    if env.id not in PAPER_GOALS:
        return None
    name, key = PAPER_GOALS[env.id]
    goals = package_data("paper", "returns")[name]["goals"]
    return [{key: np.array(goal) if isinstance(goal, list) else goal} for goal in goals]
