"""Samplers on the environment of a configuration."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import Error as GymnasiumError
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv

import metarl_envs
from metarl.errors import InputError
from metarl.rl.loading import env_options
from metarl.rl.making import make_halves, not_found
from metarl.rl.policies import CategoricalMLP, GaussianMLP
from metarl.rl.sampler import Sampler
from metarl.rl.vector import set_tasks
from metarl.rl.workers import apart

from ..catalog import package_data
from ..configs.rl import Config, EnvConfig
from ..graphics import backend_refusals

# Rows that are stepped together where every environment is an object of its own.
PLAIN_ROWS = 64
NAVIGATION = "metarl/Navigation2D-v0"
PAPER_GOALS = {
    NAVIGATION: ("navigation", "goal"),
    "metarl/HalfCheetahVelocity-v0": ("cheetah-velocity", "velocity"),
    "metarl/HalfCheetahDirection-v0": ("cheetah-direction", "direction"),
    "metarl/AntVelocity-v0": ("ant-velocity", "velocity"),
    "metarl/AntDirection-v0": ("ant-direction", "direction"),
}


def make_sampler(
    env: EnvConfig,
    *,
    tasks: int,
    episodes: int,
    observe_task: bool,
    threads: int,
    exact: bool = False,
    workers: VectorEnv[Any, Any, Any] | None = None,
) -> Sampler:
    """Sampler of ``tasks`` x ``episodes`` on the configured environment.

    Args:
        env: the configured one.
        tasks: at a time.
        episodes: per task.
        observe_task: see `Config`.
        threads: of physics.
        exact: see `Sampler`.
        workers: those of another sampler, whose sizes do not matter to them; None starts them
            where the configuration asks for any.

    Raises:
        InputError: no such environment, or options that it does not take.
    """
    if not env.id:
        raise InputError(
            "--env.id: is missing: name an environment, such as package_of_yours:MyTask-v0, or "
            "take another experiment of `metarl list`"
        )
    if env.id in metarl_envs.WORLDS and env.workers:
        raise InputError(f"--env.workers: {env.id} is one batch on threads, and takes none")
    with _refusals(env):
        if env.id in metarl_envs.WORLDS:
            options = env_options(vars(env), observe_task=observe_task)
            envs = make_halves(env.id, tasks=tasks, episodes=episodes, threads=threads, **options)
        else:
            whole = max(1, PLAIN_ROWS // episodes) * episodes if exact else PLAIN_ROWS
            rows = env.workers or min(tasks * episodes, whole)
            envs = [_make_plain(env, rows, observe_task) if workers is None else workers]
    return Sampler(envs, episodes=episodes, horizon=env.horizon, exact=exact)


def require_tasks(sampler: Sampler) -> None:
    """See that the environments of a sampler have and take tasks; if not, they are closed.

    Raises:
        InputError: they have none, or take none.
    """
    try:
        tasks, env = sampler.sample_tasks(1, np.random.default_rng(0)), sampler.envs[0]
        set_tasks(env, tasks * env.num_envs, timeout=sampler.timeout)
    except InputError:
        for env in sampler.envs:
            env.close()  # workers that only the garbage collector ends leave a traceback
        raise


def time_limit(sampler: Sampler) -> int | None:
    """Steps after which the environments end episodes by themselves; None where none is told."""
    spec = sampler.envs[0].spec
    return None if spec is None else spec.max_episode_steps


def make_drawn(env: EnvConfig, rows: int, *, observe_task: bool) -> VectorEnv[Any, Any, Any]:
    """Vector environment in this process whose ``render()`` gives a picture of every row.

    Raises:
        InputError: no such environment, or one that has no pictures.
    """
    with _refusals(env):
        if env.id in metarl_envs.WORLDS:
            options = env_options(vars(env), observe_task=observe_task)
            return gymnasium.make_vec(env.id, num_envs=rows, render_mode="rgb_array", **options)
        with gymnasium.make(env.id, disable_env_checker=True) as one:
            modes = one.metadata.get("render_modes", [])
        if "rgb_array" not in modes:
            raise InputError(f"--env.id {env.id}: has no render mode rgb_array, so no pictures")
        plain = replace(env, workers=0)
        return _make_plain(plain, rows, observe_task, render_mode="rgb_array")


@contextmanager
def _refusals(env: EnvConfig) -> Iterator[None]:
    """Turn what gymnasium and environments raise while one is made into one line."""
    try:
        with backend_refusals():
            yield
    except InputError:
        raise
    except (GymnasiumError, ImportError) as error:
        raise InputError(f"--env.id {not_found(env.id, error)}") from None
    except (TypeError, ValueError) as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is not None:
            name = unknown[1].replace("_", "-")
            raise InputError(f"--env.{name}: {env.id} takes none") from None
        if "relative import" in str(error):
            raise InputError(
                f"--env.id {env.id}: a module's name comes before the colon, such as "
                "reach:Reach-v0 in the folder of reach.py"
            ) from None
        raise InputError(f"--env: {env.id} refuses its options: {error}") from None


def _make_plain(
    env: EnvConfig, rows: int, observe_task: bool, **options: Any
) -> VectorEnv[Any, Any, Any]:
    """Rows of an environment without a vector environment of its own."""
    own = {
        "--env.physics": env.physics != "paper",
        "--env.task-range": env.task_range,
        "--env.sparse": env.sparse,
        "--observe-task": observe_task,
    }
    for name, given in own.items():
        if given:
            raise InputError(f"{name}: is for metarl's own environments")
    return gymnasium.make_vec(
        env.id,
        num_envs=rows,
        vectorization_mode="async" if env.workers else "sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
        wrappers=[apart] if env.workers else [],  # type: ignore[list-item]  # adds nothing
        **options,
    )


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
            head_scale=config.head_scale,
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
        head_scale=config.head_scale,
        generator=generator,
    )


def paper_tasks(env: EnvConfig) -> list[dict[str, Any]] | None:
    """The goals that the paper evaluates on; None where it has none."""
    if env.id not in PAPER_GOALS:
        return None
    name, key = PAPER_GOALS[env.id]
    goals = package_data("paper", "returns")[name]["goals"]
    return [{key: np.array(goal) if isinstance(goal, list) else goal} for goal in goals]
