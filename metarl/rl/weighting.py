"""From rewards to weights of the policy gradient."""

from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from metarl.checks import check_choice
from metarl.errors import InputError

from .advantages import (
    SMALLEST_UNIT,
    Value,
    advantages,
    discounted_sum,
    masked_std,
    standardize,
)
from .rollout import Rollout


@dataclass(frozen=True)
class Weighting:
    """How a rollout's rewards become weights of the policy gradient; see `advantages`.

    Attributes:
        discount: gamma.
        gae_lambda: lambda of the generalised advantage estimator.
        bootstrap_time_limit: use V of the final observation at the time limit.
        baseline: ``"linear"`` (features of observation and time; where a task has not many more
            steps than these, twice the observation's length, it fits away what there is to learn)
            or ``"zero"``.
        standardized: mean 0 and standard deviation 1 per task; 0 where a task's advantages are none
            but for rounding.
        inner_gae_lambda: lambda of inner steps; None is gae_lambda. A small one credits an action
            with what follows at once: a step says less about the far future, and says it with a
            fraction of the noise.
        best_reward: reward of a time step with nothing left to gain. Where it is known, a task's
            inner step is scaled by its `regret`; else standardised weights make the steps of all
            tasks about equally long, however far each has to go.
    """

    discount: float = 0.99
    gae_lambda: float = 1.0
    bootstrap_time_limit: bool = False
    baseline: Value = "linear"
    standardized: bool = True
    inner_gae_lambda: float | None = None
    best_reward: float | None = None

    def __post_init__(self) -> None:
        check_choice("baseline", self.baseline, get_args(Value))
        for name in ("discount", "gae_lambda", "inner_gae_lambda"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} is {value}: it must be at least 0 and at most 1")

    def __call__(self, rollout: Rollout) -> Tensor:
        """Weights ``(task, episode, time)``."""
        return self.split(rollout)[0]

    def support(self, rollout: Rollout) -> Tensor:
        """Weights of an inner step ``(task, episode, time)``, times the task's regret."""
        inner = self.gae_lambda if self.inner_gae_lambda is None else self.inner_gae_lambda
        weights = replace(self, gae_lambda=inner)(rollout)
        if self.best_reward is None:
            return weights
        return weights * regret(rollout, self.best_reward)[:, None, None].to(weights)

    def split(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Weights, and the unit ``(task,)`` that each task's are in: 1 if not standardised."""
        raw = advantages(
            rollout,
            discount=self.discount,
            gae_lambda=self.gae_lambda,
            bootstrap_time_limit=self.bootstrap_time_limit,
            value=self.baseline,
        )
        like, mask = rollout.rewards, rollout.mask.cpu().double()
        if not self.standardized:
            return raw.to(like), like.new_ones(len(raw))
        unit = masked_std(raw, mask)
        returns = discounted_sum(like.cpu().double() * mask, self.discount)
        # What is left of returns that are all expected is the baseline's rounding, not advantage.
        known = unit > SMALLEST_UNIT * returns.abs().amax((1, 2))
        weights = torch.where(known[:, None, None], standardize(raw, mask), 0.0)
        return weights.to(like), unit.to(like)


def regret(rollout: Rollout, best_reward: float) -> Tensor:
    """``max(0, best_reward - mean reward)`` over each task's valid steps: ``(task,)``.

    In float64 on the CPU.

    Polyak's step size ``(f(x) - f*) / |f'(x)|^2`` (Polyak 1987, section 5.3.2) with ``f`` the mean
    cost of a time step; standardised weights stand for its denominator. The cost of a distance has
    a gradient of one length everywhere: only its value tells how far there is to go.
    """
    rewards, mask = rollout.rewards.cpu().double(), rollout.mask.cpu().double()
    mean = (rewards * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
    return (best_reward - mean).clamp(min=0)
