"""What the losses need of rollouts: one meta-iteration's data."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from metarl.errors import InputError
from metarl.reduction import Reducer, sum_over_ranks

from .advantages import SMALLEST_UNIT
from .distributions import Distribution
from .rollout import Rollout
from .surrogates import leave_one_out


class Batch(NamedTuple):
    """Steps of a rollout with their policy-gradient weights.

    One task's slice, as a loss sees it, lacks the leading dimension.
    """

    observations: Tensor  # (task, episode, time, feature)
    actions: Tensor  # (task, episode, time, action), or (task, episode, time) if discrete
    weights: Tensor  # (task, episode, time), advantages
    mask: Tensor  # (task, episode, time), 1 at valid steps
    old: Distribution  # fields (task, episode, time, action): the policy that acted


class MetaBatch(NamedTuple):
    """All tasks' data of one meta-iteration.

    ``query.old`` is the old post-update policy; ``supports[k].old`` the policy after k steps.
    ``score_weights`` are what ``sampling_correction`` takes, see `score_weights`.
    """

    supports: tuple[Batch, ...]  # one for each inner step, sampled before it
    query: Batch  # sampled after the last step
    score_weights: Tensor | None = None  # (task,), for the sampling correction only


def make_batch(rollout: Rollout, weights: Tensor) -> Batch:
    """Pair a rollout's steps with their weights ``(task, episode, time)``."""
    return Batch(rollout.observations, rollout.actions, weights, rollout.mask, rollout.distribution)


def task_arrays(batches: Sequence[Batch], task: int) -> dict[str, NDArray[Any]]:
    """One task's observations, actions, weights and masks ``<step>.<field>``, for a post-mortem."""
    return {
        f"{k}.{name}": x[task].detach().cpu().numpy()
        for k, batch in enumerate(batches)
        for name, x in zip(Batch._fields[:4], batch[:4], strict=True)
    }


def score_weights(returns: Tensor, unit: Tensor) -> Tensor:
    """What the sampling correction credits each task's support with: ``(task,)``.

    The return after adaptation minus the mean of the other tasks', in the units of the query's
    weights; 0 where these are all alike, which leaves no unit.

    Args:
        returns: mean undiscounted return of each task's query ``(task,)``.
        unit: what the query's weights were divided by ``(task,)``.
    """
    known = unit > SMALLEST_UNIT * returns.abs().max()
    return torch.where(known, leave_one_out(returns) / torch.where(known, unit, 1.0), 0.0)


def kept_steps(horizon: int, fraction: float, *, least: int = 10) -> int:
    """How many of ``horizon`` time steps `subsample` keeps; its arguments."""
    return min(max(math.ceil(fraction * horizon), least), horizon)


def subsample(
    batch: MetaBatch,
    fraction: float,
    generator: torch.Generator,
    *,
    least: int = 10,
    reduce: Reducer | None = None,
) -> MetaBatch:
    """Keep the same random time steps of every support and of the query.

    Those at which some episode still runs come first, so that short episodes are not lost among
    the masked steps behind them.

    Args:
        batch: all time steps.
        fraction: of the time steps to keep, in (0, 1].
        generator: draws them.
        least: keep so many where there are; of short episodes a fraction says too little.
        reduce: sums over the ranks that share the tasks, which all keep the same steps.

    Raises:
        InputError: no such fraction.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction is {fraction}: it must be above 0 and at most 1")
    horizon = batch.query.mask.shape[2]
    # As many whatever runs: one shape, compiled once.
    kept = kept_steps(horizon, fraction, least=least)
    if kept == horizon:
        return batch
    masks = [one.mask for one in (*batch.supports, batch.query)]
    running = torch.stack([mask.sum((0, 1)) for mask in masks]).sum(0)
    running = sum_over_ranks(running, reduce).cpu() > 0
    times = torch.randperm(horizon, generator=generator, device="cpu")
    times = torch.cat((times[running[times]], times[~running[times]]))
    times = times[:kept].sort().values.to(masks[0].device)
    supports, query = tree_map(lambda x: x.index_select(2, times), (batch.supports, batch.query))
    return batch._replace(supports=supports, query=query)
