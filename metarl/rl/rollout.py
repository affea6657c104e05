"""A block of sampled episodes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from metarl.errors import NonFiniteError

from .distributions import Distribution, Gaussian


class Rollout(NamedTuple):
    """Whole episodes of many tasks; every row starts at a reset and is masked after its end.

    One task's slice, as a mapped loss sees it, lacks the leading dimension. Entries behind the
    mask are finite and mean nothing. Floats are recorded as float32; they come in the policy's type
    and on its device.
    """

    observations: Tensor  # (task, episode, time, feature), s_t
    actions: Tensor  # (task, episode, time, action) unclipped; int64 (task, episode, time) discrete
    rewards: Tensor  # (task, episode, time)
    mask: Tensor  # (task, episode, time): 1 while the episode runs, its last step included
    terminated: Tensor  # (task, episode, time) bool, at the step that ended the episode
    truncated: Tensor  # (task, episode, time) bool, likewise: time limit or horizon
    final_observations: Tensor  # (task, episode, feature), the true last s'
    distribution: Distribution  # fields (task, episode, time, action): the sampling policy's


def empty_rollout(rows: int, horizon: int, observation_dim: int, like: Distribution) -> Rollout:
    """Zeros to be filled in: ``(row, time, ...)``, what the policy makes on its device.

    Args:
        rows: episodes.
        horizon: time steps.
        observation_dim: length of an observation.
        like: a distribution of the policy's, ``(..., action)``.
    """
    steps, device = (rows, horizon), like[0].device
    output = (*steps, like[0].shape[-1])
    if isinstance(like, Gaussian):
        actions = _zeros(output).to(device)
    else:
        actions = _zeros(steps, np.int64).to(device)
    return Rollout(
        observations=_zeros((*steps, observation_dim)),
        actions=actions,
        rewards=_zeros(steps),
        mask=_zeros(steps),
        terminated=_zeros(steps, np.bool_),
        truncated=_zeros(steps, np.bool_),
        final_observations=_zeros((rows, observation_dim)),
        distribution=type(like)(*(_zeros(output).to(device) for _ in like)),
    )


def _zeros(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> Tensor:
    # numpy asks for huge pages where torch does not: filling fresh memory is ten times as fast.
    return torch.from_numpy(np.zeros(shape, dtype))


def map_rollout(fn: Callable[[Tensor], Tensor], rollout: Rollout) -> Rollout:
    """The rollout with ``fn`` applied to every tensor."""
    fields: dict[str, Any] = rollout._asdict()
    distribution = fields.pop("distribution")
    mapped = {name: fn(x) for name, x in fields.items()}
    return Rollout(**mapped, distribution=type(distribution)(*map(fn, distribution)))


def merge_tasks(rollout: Rollout, count: int) -> Rollout:
    """Put the episodes of every ``count`` consecutive tasks into one task."""
    if count == 1:
        return rollout
    return map_rollout(lambda x: x.reshape(-1, count * x.shape[1], *x.shape[2:]), rollout)


def arrays_of(rollout: Rollout, task: int) -> dict[str, NDArray[Any]]:
    """What one task did, for a post-mortem."""
    fields = ("observations", "actions", "rewards", "mask")
    return {name: getattr(rollout, name)[task].cpu().numpy() for name in fields}


def check_finite(rollout: Rollout, episodes: int) -> None:
    """Refuse non-finite observations, actions and rewards of ``(row, time, ...)`` episodes.

    Raises:
        NonFiniteError: names the first that appeared, in time and from observation to reward, with
            the row's task ``row // episodes`` and its episodes so far.
    """
    discrete = not rollout.actions.is_floating_point()
    probes = {
        "observation": rollout.observations,
        "action": rollout.distribution[0] if discrete else rollout.actions,
        "reward": rollout.rewards.unsqueeze(-1),
    }
    # A finite sum proves finite terms, in one fast pass; only its failure needs a closer look.
    if all(torch.isfinite(x.sum()) for x in probes.values()):
        return
    bad = torch.stack([~x.isfinite().all(-1).cpu() for x in probes.values()], -1)
    if not bad.any():
        return
    time = int(bad.any(-1).any(0).nonzero()[0])
    kind = int(bad[:, time].any(0).nonzero()[0])
    row = int(bad[:, time, kind].nonzero()[0])
    place, task = list(probes)[kind], row // episodes
    rows = slice(task * episodes, (task + 1) * episodes)
    said = place
    if place == "action" and discrete:
        said = "logits (rule actions out by large negative ones, such as -1e9)"
    raise NonFiniteError(
        f"non-finite {said} of task {task}, episode {row % episodes}, at time step {time}",
        place=place,
        task=task,
        batch={name: x[rows, : time + 1].cpu().numpy() for name, x in probes.items()},
    )


def episode_returns(rollout: Rollout) -> Tensor:
    """Undiscounted return of each episode, ``(..., episode)``; 0 for invalid ones."""
    return (rollout.rewards * rollout.mask).sum(-1)


def mean_return(rollout: Rollout) -> Tensor:
    """Mean undiscounted return over a task's valid episodes, ``(...)``; it has at least one."""
    return episode_returns(rollout).sum(-1) / rollout.mask[..., 0].sum(-1)
