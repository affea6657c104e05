"""A meta-trained policy to use elsewhere: adapted to an environment, saved."""

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metarl.checks import check_counts
from metarl.errors import InputError
from metarl.inner import InnerLoop, extended_rates
from metarl.params import Params, from_module, split_rates
from metarl.runs.export import export_params

from .acting import Policy, check_spaces
from .collect import Adapted, adapt_by_acting
from .objectives import PolicyObjectives, policy_objectives
from .one_task import Env, one_task_sampler
from .rollout import mean_return
from .sampler import Sampler
from .surrogates import InnerSurrogate
from .vector import Task
from .weighting import Weighting


@dataclass(frozen=True, eq=False)
class MetaPolicy:
    """Initial parameters theta of a policy, and how a task adapts them.

    Attributes:
        theta: parameters of `module`, learned step sizes ``inner_lr.<name>`` among them.
        module: the policy as it acts before any adaptation: a copy of the one given, with theta's
            weights.
        inner: step sizes and which parameters move, as trained.
        inner_steps: steps it was trained for.
        later_lr_factors: step sizes beyond these, as multiples of the last trained one; the last of
            them serves all further steps.
        inner_surrogate: what the inner loop climbs.
        weighting: rewards to weights.
        episodes: of each step, unless said otherwise.
        horizon: most steps of an episode, unless said otherwise.
        env_id: what it was trained on.
        env_options: arguments that this was made with.

    Raises:
        InputError: theta does not hold the module's trainable parameters.
    """

    theta: Params = field(repr=False)
    module: nn.Module
    inner: InnerLoop
    inner_steps: int = 1
    later_lr_factors: Sequence[float] = (0.5,)
    inner_surrogate: InnerSurrogate = "loglik"
    weighting: Weighting = field(default_factory=Weighting)
    episodes: int = 20
    horizon: int = 200
    env_id: str | None = None
    env_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Its own: a trainer goes on moving what it gave.
        theta = {name: p.detach().clone() for name, p in self.theta.items()}
        object.__setattr__(self, "theta", theta)
        # Most have trained theta outside of the module, which still holds what it began with.
        module = _with_weights(self.module, split_rates(self.theta)[0])
        object.__setattr__(self, "module", module)

    @functools.cached_property
    def _objectives(self) -> PolicyObjectives:
        """Made once: what the core makes of a loss is kept, and the module with it."""
        _, apply = from_module(self.module)
        return policy_objectives(apply, self.inner, inner_surrogate=self.inner_surrogate)

    def __getstate__(self) -> dict[str, Any]:
        return {name: x for name, x in self.__dict__.items() if name != "_objectives"}

    def adapt(
        self,
        env: Env,
        *,
        episodes: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        task: Task | None = None,
        horizon: int | None = None,
    ) -> Policy:
        """Act, take a policy-gradient step on what was earned, and so on: ``steps`` times both.

        As in evaluations: the stochastic policy, ``episodes`` fresh ones before each step, learned
        step sizes and `later_lr_factors`.

        Args:
            env: a gymnasium environment, a vector environment whose rows all play one task, or an
                id; one made elsewhere stays open. Its reward is all that tells the task.
            episodes: before each step.
            steps: gradient steps, by default as many as were trained; 0 is the policy before
                adaptation, and plays nothing.
            seed: keys the starts of the episodes and all actions, and those of the policy made.
            task: given to the environment; None keeps the one it holds, or draws one for an id.
            horizon: most steps of an episode.

        Raises:
            InputError: the environment does not fit, or a number is too small.
            NonFiniteError: an observation, a reward or a gradient is not finite.
        """
        episodes = self.episodes if episodes is None else episodes
        horizon = self.horizon if horizon is None else horizon
        steps = self.inner_steps if steps is None else steps
        check_counts(episodes=episodes, horizon=horizon)
        own = isinstance(env, str) and bare_id(env) == bare_id(self.env_id or "")
        options = dict(self.env_options) if own else {}
        if "horizon" in options:  # metarl's own environments end there by themselves
            options["horizon"] = horizon
        with one_task_sampler(
            env, episodes=episodes, horizon=horizon, task=task, seed=seed, options=options
        ) as (sampler, held):
            spaces = sampler.envs[0]
            observation, action = spaces.single_observation_space, spaces.single_action_space
            check_spaces(self.module, observation, action)
            adapted = self._act_and_adapt(sampler, held, steps, seed)
        module = _with_weights(self.module, {n: p[0] for n, p in adapted.path[-1].items()})
        returns = tuple(mean_return(rollout).item() for rollout in adapted.rollouts)
        return Policy(module, observation, action, seed=seed, returns=returns)

    def _act_and_adapt(self, sampler: Sampler, task: Task | None, steps: int, seed: int) -> Adapted:
        params, inner = extended_rates(
            self.theta,
            self.inner,
            trained_steps=self.inner_steps,
            steps=steps,
            factors=self.later_lr_factors,
        )
        return adapt_by_acting(
            params,
            policy=self.module,
            objectives=self._objectives,
            sampler=sampler,
            tasks=[task],
            inner=inner,
            inner_steps=steps,
            weighting=self.weighting,
            seed=seed,
        )

    def save(self, path: str | Path) -> None:
        """Write theta as ``.npz`` or ``.safetensors``; see `export_params`."""
        export_params(path, self.theta)


def bare_id(env_id: str) -> str:
    """An id without the package to import."""
    return env_id.rpartition(":")[2]


def _with_weights(module: nn.Module, params: Params) -> nn.Module:
    """A copy that holds these parameters, on their device and of their type.

    Buffers and frozen parameters, which are no part of theta, stay the module's own.

    Raises:
        InputError: they are not its trainable parameters.
    """
    ours = {name: tuple(p.shape) for name, p in params.items()}
    own = {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
    if ours != own:
        name = min(name for name, _ in ours.items() ^ own.items())
        raise InputError(
            f"theta does not fit {type(module).__name__}: {name} is {ours.get(name, 'missing')} "
            f"in theta and {own.get(name, 'missing')} in the module"
        )
    like = next(iter(params.values()))
    copied = copy.deepcopy(module).to(like.device, like.dtype)
    there = dict(copied.named_parameters())
    with torch.no_grad():
        for name, p in params.items():
            there[name].copy_(p)
    return copied
