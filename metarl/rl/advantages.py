"""Advantages: how much better an action was than expected.

The functions of sequences work along the last axis, time, of any leading dimensions; one row is one
episode, so nothing can leak into the next.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from metarl.checks import check_choice
from metarl.errors import NonFiniteError
from metarl.finite import first_not_finite

from . import baseline
from .rollout import Rollout, arrays_of, map_rollout

Value = Literal["linear", "zero"]

# Relative to the returns, what is below this is the rounding and the ridge of a baseline.
SMALLEST_UNIT = 1e-5


def discounted_sum(x: Tensor, discount: float) -> Tensor:
    """``y_t = x_t + discount * y_{t+1}``, with 0 behind the last step: ``(..., time)``.

    Of masked rewards these are the discounted returns.
    """
    total = torch.zeros_like(x[..., 0])
    sums = []
    for x_t in reversed(x.unbind(-1)):
        total = x_t + discount * total
        sums.append(total)
    return torch.stack(sums[::-1], -1)


def gae(
    rewards: Tensor,
    values: Tensor,
    final_value: Tensor,
    mask: Tensor,
    terminated: Tensor,
    *,
    discount: float,
    gae_lambda: float,
    bootstrap_time_limit: bool = False,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, equations 11 and 16).

    ``delta_t = r_t + discount V(s'_t) (1 - end_t) - V(s_t)`` and ``A_t = delta_t + discount *
    gae_lambda * A_{t+1}`` within the episode, where ``s'_t`` is the true successor state. ``end``
    holds at the last step: always (as in the MAML paper's code, where V is 0 behind the time limit
    too), or only where the episode terminated if ``bootstrap_time_limit``.

    Args:
        rewards: ``(..., time)``.
        values: V(s_t) ``(..., time)``.
        final_value: V of the true final observation ``(...)``; any number where unused.
        mask: 1 while the episode runs ``(..., time)``, a prefix of the row.
        terminated: bool ``(..., time)``, at the episode's last step.
        discount: gamma.
        gae_lambda: lambda; 1 gives the discounted return minus the value.
        bootstrap_time_limit: use V of the final observation where the time limit ended the episode.
            Worth its name with a V that looks beyond that limit; the linear feature baseline is
            fitted to the returns of the episodes as they are, and is near 0 at their common end.

    Returns:
        ``(..., time)``, 0 behind the mask.
    """
    behind = torch.zeros_like(mask[..., :1])
    last = mask * (1 - torch.cat((mask[..., 1:], behind), -1))
    following = torch.cat((values[..., 1:], behind.to(values.dtype)), -1) * (1 - last)
    if bootstrap_time_limit:
        # Not a product: what is never used may be infinite.
        used = (last > 0) & ~terminated
        following = torch.where(used, final_value.unsqueeze(-1), following)
    deltas = (rewards + discount * following - values) * mask
    return discounted_sum(deltas, discount * gae_lambda) * mask


def standardize(x: Tensor, mask: Tensor, *, epsilon: float = 1e-8) -> Tensor:
    """Mean 0 and standard deviation 1 over one task's valid steps; 0 behind the mask.

    Args:
        x: ``(..., episode, time)``; leading dimensions, such as the task, are kept apart.
        mask: 1 at valid steps, same shape.
        epsilon: added to the standard deviation, so equal entries give 0.
    """
    centred, std = _centred(x, mask)
    return centred / (std + epsilon)


def masked_std(x: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation over one task's valid steps: ``(..., episode, time) -> (...)``."""
    return _centred(x, mask)[1].squeeze((-2, -1))


def _centred(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    count = mask.sum((-2, -1), keepdim=True).clamp(min=1)
    centred = (x - (x * mask).sum((-2, -1), keepdim=True) / count) * mask
    return centred, (centred.square().sum((-2, -1), keepdim=True) / count).sqrt()


def advantages(
    rollout: Rollout,
    *,
    discount: float = 0.99,
    gae_lambda: float = 1.0,
    bootstrap_time_limit: bool = False,
    value: Value = "linear",
) -> Tensor:
    """Advantages ``(task, episode, time)``, float64 on the CPU: not all devices have float64.

    Args:
        rollout: with its task dimension.
        discount: gamma.
        gae_lambda: lambda.
        bootstrap_time_limit: see `gae`; False is the MAML paper's setting.
        value: V is the linear feature baseline, refitted to the discounted returns of each task of
            this rollout, or 0.

    Raises:
        InputError: ``value`` is none of these.
        NonFiniteError: an advantage is not finite, or not in the rewards' dtype; or the fit of the
            baseline, or a final observation whose value is needed.
    """
    check_choice("value", value, get_args(Value))
    dtype = rollout.rewards.dtype
    rollout = map_rollout(Tensor.cpu, rollout)
    mask, rewards = rollout.mask.double(), rollout.rewards.double()
    if value == "linear":
        values, final_value = _linear_values(rollout, discount, final=bootstrap_time_limit)
    else:
        values, final_value = torch.zeros_like(rewards), torch.zeros_like(rewards[..., 0])
    weights = gae(
        rewards,
        values,
        final_value,
        mask,
        rollout.terminated,
        discount=discount,
        gae_lambda=gae_lambda,
        bootstrap_time_limit=bootstrap_time_limit,
    )
    task = first_not_finite(weights.to(dtype))  # what is too large becomes infinite
    if task is not None:
        raise NonFiniteError(
            f"the advantages of task {task} are not finite: look at its rewards",
            place="advantage",
            task=task,
            batch=arrays_of(rollout, task),
        )
    return weights


@torch.no_grad()
def _linear_values(rollout: Rollout, discount: float, *, final: bool) -> tuple[Tensor, Tensor]:
    """Baseline at every state ``(task, episode, time)`` and, if asked, at the final ones."""
    mask = rollout.mask.double()
    if final:
        _check_final(rollout)
    returns = discounted_sum(rollout.rewards.double() * mask, discount)
    steps = torch.arange(mask.shape[-1], device=mask.device)
    values, final_value = torch.zeros_like(returns), torch.zeros_like(returns[..., 0])
    for task in range(len(returns)):
        x = baseline.features(rollout.observations[task], steps)
        try:
            weights = baseline.fit(x, returns[task], mask[task])
        except NonFiniteError as error:
            error.task, error.batch = task, arrays_of(rollout, task)
            raise
        values[task] = baseline.predict(weights, x)
        if final:
            x = baseline.features(rollout.final_observations[task], mask[task].sum(-1))
            final_value[task] = baseline.predict(weights, x)
    return values, final_value


def _check_final(rollout: Rollout) -> None:
    """Refuse a final observation that is not finite where the time limit ended the episode.

    Elsewhere nothing uses it, so sampling does not look at it.
    """
    running = rollout.mask > 0
    used = running.any(-1) & ~(rollout.terminated & running).any(-1)
    bad = used & ~rollout.final_observations.isfinite().all(-1)
    if bad.any():
        task, episode = (int(i) for i in bad.nonzero()[0])
        raise NonFiniteError(
            f"non-finite final observation of task {task}, episode {episode}: where the time limit "
            "ends an episode, bootstrap_time_limit needs its value",
            place="final observation",
            task=task,
            batch={"final_observations": rollout.final_observations[task].cpu().numpy()},
        )
