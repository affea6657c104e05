"""Meta-iterations of small policies on small environments, in pieces that tests put together."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tabular import F64
from torch import nn
from walkers import Walker

from metarl import InnerLoop, from_module, torch_stream
from metarl.params import Params
from metarl.rl.clock import Clock
from metarl.rl.collect import collect_meta_batch
from metarl.rl.maml import Update, meta_step
from metarl.rl.objectives import policy_objectives
from metarl.rl.policies import CategoricalMLP, GaussianMLP
from metarl.rl.sampler import Sampler
from metarl.rl.updates import adam_update, promp_update, trpo_update
from metarl.rl.weighting import Weighting


class Setting(NamedTuple):
    """A policy, theta, and all arguments of `collect_meta_batch` but seed and clock."""

    policy: nn.Module
    theta: Params
    options: dict[str, Any]

    def step(self, update: Update, *, theta: Params | None = None, seed: int = 0) -> Any:
        """``(theta, metrics)`` of one meta-iteration."""
        shared = {name: self.options[name] for name in ("objectives", "mapping")}
        collect = functools.partial(collect_meta_batch, seed=seed, **self.options)
        return meta_step(self.theta if theta is None else theta, collect, update, **shared)


def trpo(setting: Setting, **options: Any) -> Update:
    """TRPO with all time steps in its Fisher products unless told otherwise."""
    defaults: dict[str, Any] = {
        "max_kl": 0.01,
        "fisher_fraction": 1.0,
        "mapping": setting.options["mapping"],
    }

    def update(theta: Params, data: Any, *, clock: Clock) -> Any:
        return trpo_update(
            setting.options["objectives"],
            theta,
            data,
            generator=torch_stream(0, "fisher"),  # the same in every step
            clock=clock,
            **{**defaults, **options},
        )

    return update


def walk(
    tasks: Sequence[dict[str, Any]] | None = None,
    *,
    inner: InnerLoop | None = None,
    inner_steps: int = 1,
    discrete: bool = False,
    dtype: torch.dtype = F64,
    episodes: int = 4,
    horizon: int = 9,
    weighting: Weighting | None = None,
    init_std: float = 1.0,
    min_std: float = 1e-6,
    mapping: str = "auto",
    mixed: int = 1,
    **objective: Any,
) -> Setting:
    """Random walks of three tasks, where none are given."""
    tasks = Walker.sample_tasks(3, np.random.default_rng(0)) if tasks is None else tasks
    generator = torch_stream(0, "weights")
    hidden: Any = {"hidden": (4,), "activation": "tanh", "generator": generator}
    policy: nn.Module = (
        CategoricalMLP(2, 3, **hidden)
        if discrete
        else GaussianMLP(2, 2, init_std=init_std, min_std=min_std, **hidden)
    )
    policy = policy.to(dtype)
    theta, apply = from_module(policy)
    inner = InnerLoop(0.1) if inner is None else inner
    env = SyncVectorEnv(
        [functools.partial(Walker, discrete=discrete)] * (len(tasks) * episodes),
        autoreset_mode=AutoresetMode.DISABLED,
    )
    return Setting(
        policy,
        theta,
        {
            "policy": policy,
            "objectives": policy_objectives(apply, inner, **objective),
            "sampler": Sampler(env, episodes=episodes, horizon=horizon),
            "tasks": tasks,
            "inner_steps": inner_steps,
            "weighting": Weighting() if weighting is None else weighting,
            "mapping": mapping,
            "mixed": mixed,
        },
    )


def updated(setting: Setting, name: str) -> tuple[Any, Any]:
    """An update by name, and its optimiser."""
    if name == "trpo":
        return trpo(setting), None
    optimizer = torch.optim.Adam(setting.theta.values(), lr=0.01)
    own = setting.options["objectives"]
    if name == "adam":
        return functools.partial(adam_update, own, optimizer=optimizer), optimizer
    return functools.partial(promp_update, own, optimizer=optimizer, penalty=0.1), optimizer
