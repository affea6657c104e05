"""What the losses need of rollouts: one meta-iteration's data."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.rl.distributions import Distribution
from metarl.rl.rollout import Rollout


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
    """

    supports: tuple[Batch, ...]  # one for each inner step, sampled before it
    query: Batch  # sampled after the last step
    score_weights: Tensor  # (task,), of the sampling correction; zeros where it is off


def make_batch(rollout: Rollout, weights: Tensor) -> Batch:
    """Pair a rollout's steps with their weights ``(task, episode, time)``."""
    return Batch(rollout.observations, rollout.actions, weights, rollout.mask, rollout.distribution)


def subsample(batch: MetaBatch, fraction: float, generator: torch.Generator) -> MetaBatch:
    """Keep the same random time steps of every support and of the query.

    Args:
        batch: all time steps.
        fraction: of the time steps to keep, in (0, 1]; at least one stays.
        generator: draws them.
    """
    if fraction >= 1:
        return batch
    horizon = batch.query.mask.shape[2]
    kept = max(1, math.ceil(fraction * horizon))
    times = torch.randperm(horizon, generator=generator)[:kept].sort().values
    times = times.to(batch.query.mask.device)

    def keep(one: Batch) -> Batch:
        old = type(one.old)(*(field.index_select(2, times) for field in one.old))
        return Batch(*(x.index_select(2, times) for x in one[:4]), old)

    return batch._replace(
        supports=tuple(keep(support) for support in batch.supports), query=keep(batch.query)
    )
