"""Sampling and adaptation of one meta-batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarl.adaptation import adapt_path
from metarl.errors import NonFiniteError
from metarl.inner import InnerLoop
from metarl.params import Params, expand_params
from metarl.rl.batches import Batch, MetaBatch, make_batch, score_weights, task_arrays
from metarl.rl.clock import Clock
from metarl.rl.objectives import PolicyObjectives
from metarl.rl.rollout import Rollout, mean_return, merge_tasks
from metarl.rl.sampler import Sampler
from metarl.rl.weighting import Weighting
from metarl.streams import seed_of


class Collected(NamedTuple):
    """What one meta-iteration sampled; without an update, an evaluation of adaptation.

    Attributes:
        data: batches of all tasks.
        path: ``[theta_0, ..., theta_K]`` of all tasks.
        rollouts: the K support rollouts and the query rollout.
        env_steps: transitions sampled.
        invalid_episodes: episodes dropped because their physics diverged.
    """

    data: MetaBatch
    path: list[Params]
    rollouts: list[Rollout]
    env_steps: int
    invalid_episodes: int

    def returns(self) -> Tensor:
        """Mean undiscounted return after k = 0..K steps, ``(K + 1, task)``."""
        return torch.stack([mean_return(rollout) for rollout in self.rollouts])


def collect_meta_batch(
    theta: Params,
    *,
    policy: nn.Module,
    objectives: PolicyObjectives,
    sampler: Sampler,
    tasks: Sequence[dict[str, Any]],
    inner: InnerLoop,
    inner_steps: int,
    weighting: Weighting,
    seed: int,
    mixed: int = 1,
    mapping: str = "auto",
    clock: Clock,
) -> Collected:
    """Sample every task before each inner step, adapt, and sample after the last.

    Args:
        theta: initial parameters, learned step sizes among them.
        policy: module whose parameters theta holds.
        objectives: for the inner loss.
        sampler: collects each task's episodes.
        tasks: the meta-batch.
        inner: how a task adapts.
        inner_steps: K.
        weighting: rewards to weights.
        seed: keys all sampling noise of this iteration.
        mixed: so many consecutive tasks make one batch: a single policy for all of them, which
            cannot adapt (``inner_steps`` 0).
        mapping: of the adaptation.
        clock: collects ``sample`` and ``adapt``.

    Raises:
        NonFiniteError: a sample, a weight or an adapted parameter is not finite.
    """
    sampler.set_tasks(tasks)
    path = [expand_params(theta, len(tasks))]
    supports: list[Batch] = []
    rollouts: list[Rollout] = []
    env_steps = invalid = 0
    for k in range(inner_steps + 1):
        with clock("sample"):
            rollout, counts = sampler.collect(policy, path[-1], seed=seed_of(seed, "rollout", k))
        rollout = merge_tasks(rollout, mixed)
        rollouts.append(rollout)
        env_steps += counts.env_steps
        invalid += counts.invalid_episodes
        with clock("adapt"):
            weights, unit = weighting.split(rollout)
            batch = make_batch(rollout, weights)
            if k == inner_steps:
                break
            supports.append(batch)
            with torch.no_grad():
                path = adapt_path(
                    objectives.inner_loss, theta, tuple(supports), inner, mapping=mapping
                )
            _require_finite(path[-1], supports)
    scores = score_weights(mean_return(rollouts[-1]), unit)
    return Collected(MetaBatch(tuple(supports), batch, scores), path, rollouts, env_steps, invalid)


def _require_finite(params: Params, supports: list[Batch]) -> None:
    for name, p in params.items():
        finite = p.flatten(1).isfinite().all(1)
        if not bool(finite.all()):
            task = int((~finite).nonzero()[0])
            raise NonFiniteError(
                f"the inner gradient of {name} for task {task} is not finite",
                place="inner gradient",
                task=task,
                batch=task_arrays(supports, task),
            )
