"""Sampling and adaptation of one meta-batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarl.adaptation import adapt_path
from metarl.distributed import ALONE, Ranks
from metarl.errors import InputError, NonFiniteError
from metarl.finite import first_not_finite
from metarl.inner import InnerLoop
from metarl.params import Params, expand_params
from metarl.streams import seed_of

from .batches import Batch, MetaBatch, make_batch, score_weights, task_arrays
from .clock import Clock
from .objectives import PolicyObjectives
from .rollout import Rollout, mean_return, merge_tasks
from .sampler import Sampler
from .weighting import Weighting


class Adapted(NamedTuple):
    """Tasks that acted and learned from it; fields as in `Collected`."""

    supports: list[Batch]
    path: list[Params]
    rollouts: list[Rollout]  # those of the K supports
    env_steps: int
    invalid_episodes: int


class Collected(NamedTuple):
    """What one meta-iteration sampled; without an update, an evaluation of adaptation.

    Attributes:
        data: batches of all tasks; of this rank's where several share them.
        path: ``[theta_0, ..., theta_K]`` of the same tasks.
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
        """Mean undiscounted return of these tasks after k = 0..K steps, ``(K + 1, task)``."""
        return torch.stack([mean_return(rollout) for rollout in self.rollouts])


def adapt_by_acting(
    theta: Params,
    *,
    policy: nn.Module,
    objectives: PolicyObjectives,
    sampler: Sampler,
    tasks: Sequence[dict[str, Any] | None],
    inner_steps: int,
    weighting: Weighting,
    seed: int,
    inner: InnerLoop | None = None,
    block: tuple[int, int] | None = None,
    mapping: str = "auto",
    clock: Clock | None = None,
) -> Adapted:
    """Sample every task, take a gradient step on what it did, and so on: K times both.

    Args:
        theta: initial parameters, learned step sizes among them.
        policy: module whose parameters theta holds.
        objectives: for the inner loss and loop.
        sampler: collects each task's episodes.
        tasks: the meta-batch; None is a task that the environment holds already.
        inner_steps: K.
        weighting: rewards to weights.
        seed: keys all sampling noise.
        inner: how a task adapts where not as in ``objectives``, such as the step sizes of an
            evaluation; see `metarl.extended_rates`.
        block: where these tasks are part of more, see `Sampler.set_tasks`.
        mapping: of the adaptation.
        clock: collects ``sample`` and ``adapt``, if wanted.

    Raises:
        NonFiniteError: a sample, a weight or an adapted parameter is not finite.
    """
    clock = clock or Clock()
    sampler.set_tasks(tasks, block=block)
    path = [expand_params(theta, len(tasks))]
    supports: list[Batch] = []
    rollouts: list[Rollout] = []
    env_steps = invalid = 0
    for k in range(inner_steps):
        with clock("sample"):
            rollout, counts = sampler.collect(policy, path[-1], seed=seed_of(seed, "rollout", k))
        rollouts.append(rollout)
        env_steps += counts.env_steps
        invalid += counts.invalid_episodes
        with clock("adapt"), torch.no_grad():
            supports.append(make_batch(rollout, weighting.support(rollout)))
            path = adapt_path(
                objectives.inner_loss,
                theta,
                tuple(supports),
                inner or objectives.inner,
                mapping=mapping,
            )
        _check_adapted(path[-1], supports)
    return Adapted(supports, path, rollouts, env_steps, invalid)


def collect_meta_batch(
    theta: Params,
    *,
    policy: nn.Module,
    objectives: PolicyObjectives,
    sampler: Sampler,
    tasks: Sequence[dict[str, Any]],
    inner_steps: int,
    weighting: Weighting,
    seed: int,
    inner: InnerLoop | None = None,
    mixed: int = 1,
    mapping: str = "auto",
    ranks: Ranks = ALONE,
    clock: Clock | None = None,
) -> Collected:
    """`adapt_by_acting`, and sample once more after the last step.

    Args:
        theta: as in `adapt_by_acting`, like all arguments not named here.
        mixed: so many consecutive tasks make one batch: a single policy for all of them, which
            cannot adapt (``inner_steps`` 0).
        ranks: share the tasks, of which the sampler has room for this rank's.

    Raises:
        InputError: as in `Sampler.set_tasks`; tasks that do not fill their batches, or are mixed
            and adapt.
        NonFiniteError: a sample, a weight or an adapted parameter is not finite.
    """
    if mixed > 1 and (inner_steps or len(tasks) % mixed):
        raise InputError(
            f"mixed is {mixed}, with {inner_steps} inner steps and {len(tasks)} tasks: mixed tasks "
            "cannot adapt (inner_steps=0), and their number must be a multiple"
        )
    clock = clock or Clock()
    rows = ranks.rows(len(tasks) // mixed)
    first = rows.start * mixed
    adapted = adapt_by_acting(
        theta,
        policy=policy,
        objectives=objectives,
        sampler=sampler,
        tasks=tasks[first : rows.stop * mixed],
        inner_steps=inner_steps,
        weighting=weighting,
        seed=seed,
        inner=inner,
        block=(first, len(tasks)),
        mapping=mapping,
        clock=clock,
    )
    with clock("sample"):
        query_seed = seed_of(seed, "rollout", inner_steps)
        rollout, counts = sampler.collect(policy, adapted.path[-1], seed=query_seed, mixed=mixed)
    rollout = merge_tasks(rollout, mixed)
    with clock("adapt"):
        weights, unit = weighting.split(rollout)
        query = make_batch(rollout, weights)
    scores = None
    if objectives.sampling_correction != "off":
        scores = score_weights(ranks.gather(mean_return(rollout)), ranks.gather(unit))[rows]
    return Collected(
        MetaBatch(tuple(adapted.supports), query, scores),
        adapted.path,
        [*adapted.rollouts, rollout],
        adapted.env_steps + counts.env_steps,
        adapted.invalid_episodes + counts.invalid_episodes,
    )


def _check_adapted(params: Params, supports: list[Batch]) -> None:
    for name, p in params.items():
        task = first_not_finite(p)
        if task is not None:
            raise NonFiniteError(
                f"the inner gradient of {name} for task {task} is not finite",
                place="inner gradient",
                task=task,
                batch=task_arrays(supports, task),
            )
