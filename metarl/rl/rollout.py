"""A block of sampled episodes."""

from typing import NamedTuple

from torch import Tensor

from metarl.rl.distributions import Distribution


class Rollout(NamedTuple):
    """Whole episodes of many tasks; every row starts at a reset and is masked after its end.

    One task's slice, as a mapped loss sees it, lacks the leading dimension. Entries behind the
    mask are finite and mean nothing. float32 unless said otherwise, on the policy's device.
    """

    observations: Tensor  # (task, episode, time, feature), s_t
    actions: Tensor  # (task, episode, time, action) unclipped; int64 (task, episode, time) discrete
    rewards: Tensor  # (task, episode, time)
    mask: Tensor  # (task, episode, time): 1 while the episode runs, its last step included
    terminated: Tensor  # (task, episode, time) bool, at the step that ended the episode
    truncated: Tensor  # (task, episode, time) bool, likewise: time limit or horizon
    final_observations: Tensor  # (task, episode, feature), the true last s'
    log_probs: Tensor  # (task, episode, time), of the unclipped action under the sampling policy
    distribution: Distribution  # fields (task, episode, time, action): the sampling policy's


def episode_returns(rollout: Rollout) -> Tensor:
    """Undiscounted return of each episode, ``(..., episode)``; 0 for invalid ones."""
    return (rollout.rewards * rollout.mask).sum(-1)


def mean_return(rollout: Rollout) -> Tensor:
    """Mean undiscounted return over a task's valid episodes, ``(...)``; NaN if it has none."""
    valid = rollout.mask[..., 0]
    return episode_returns(rollout).sum(-1) / valid.sum(-1)
