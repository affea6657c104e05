"""One meta-iteration of a policy, in one direction: sample, adapt, sample, update."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarl.errors import NonFiniteError
from metarl.inner import InnerLoop
from metarl.meta import adapt_path
from metarl.params import Params, expand_params, split_rates
from metarl.rates import rate_at, resolve_rates
from metarl.rl.advantages import advantages, standardize
from metarl.rl.batches import Batch, MetaBatch, make_batch
from metarl.rl.clock import Clock
from metarl.rl.distributions import Gaussian
from metarl.rl.objectives import PolicyObjectives
from metarl.rl.rollout import Rollout, mean_return, merge_tasks
from metarl.rl.sampler import Sampler
from metarl.rl.surrogates import leave_one_out
from metarl.rl.updates import old_policy
from metarl.streams import seed_of

Update = Callable[[Params, MetaBatch, Clock], tuple[Params, dict[str, float]]]
"""``(theta, data, clock) -> (theta, metrics)``: a meta-update with its settings filled in."""


@dataclass(frozen=True)
class Weighting:
    """How a rollout's rewards become weights of the policy gradient; see `advantages`.

    Attributes:
        discount: gamma.
        gae_lambda: lambda of the generalised advantage estimator.
        bootstrap_time_limit: use V of the final observation at the time limit.
        baseline: ``"linear"`` (features of observation and time) or ``"zero"``.
        standardized: mean 0 and standard deviation 1 per task.
    """

    discount: float = 0.99
    gae_lambda: float = 1.0
    bootstrap_time_limit: bool = False
    baseline: str = "linear"
    standardized: bool = True

    def __call__(self, rollout: Rollout) -> Tensor:
        """Weights ``(task, episode, time)``."""
        return self.split(rollout)[0]

    def split(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Weights, and what each task's were divided by ``(task,)``: 1 if not standardised."""
        raw = advantages(
            rollout,
            discount=self.discount,
            gae_lambda=self.gae_lambda,
            bootstrap_time_limit=self.bootstrap_time_limit,
            value=self.baseline,  # type: ignore[arg-type]
            standardized=False,
        )
        if not self.standardized:
            return raw, torch.ones_like(raw[:, 0, 0])
        return standardize(raw, rollout.mask), _std(raw, rollout.mask)


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
            weights, scale = weighting.split(rollout)
            batch = make_batch(rollout, weights)
            if k == inner_steps:
                break
            supports.append(batch)
            with torch.no_grad():
                path = adapt_path(
                    objectives.inner_loss, theta, tuple(supports), inner, mapping=mapping
                )
            _require_finite(path[-1])
    # In the units of the query's mean surrogate: the return over its length and weights' scale.
    steps = rollouts[-1].mask.sum((1, 2)) / rollouts[-1].mask[:, :, 0].sum(1).clamp(min=1)
    score_weights = leave_one_out(mean_return(rollouts[-1])) / (steps * scale)
    data = MetaBatch(tuple(supports), batch, score_weights)
    return Collected(data, path, rollouts, env_steps, invalid)


def meta_step(
    theta: Params,
    update: Update,
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
) -> tuple[Params, dict[str, float]]:
    """One meta-iteration: the whole flow of MAML for policies (Finn et al. 2017, algorithm 3).

    Tasks are sampled under theta, adapted, sampled again after each inner step, and theta moves so
    that the policies *after* adaptation improve.

    Args:
        theta: initial parameters, learned step sizes among them.
        update: TRPO, ProMP or Adam, see `updates`.
        policy: as in `collect_meta_batch`, like all further arguments.

    Returns:
        The new theta and the iteration's metrics.

    Raises:
        NonFiniteError: anything sampled or computed is not finite; theta is unchanged.
    """
    clock = Clock()
    collected = collect_meta_batch(
        theta,
        policy=policy,
        objectives=objectives,
        sampler=sampler,
        tasks=tasks,
        inner=inner,
        inner_steps=inner_steps,
        weighting=weighting,
        seed=seed,
        mixed=mixed,
        mapping=mapping,
        clock=clock,
    )
    with clock("adapt"):
        data = old_policy(objectives, theta, collected.data, mapping=mapping)
    new_theta, metrics = update(theta, data, clock)
    return new_theta, {
        **progress(collected),
        "inner_grad_norm": inner_gradient_norm(theta, collected.path, inner),
        **metrics,
        **clock.metrics(),
    }


def progress(collected: Collected) -> dict[str, float]:
    """What adaptation gained: means over tasks of returns before and after it."""
    before = mean_return(collected.rollouts[0]).double()
    after = mean_return(collected.rollouts[-1]).double()
    gain = after - before
    spread = float(gain.std(correction=1)) if len(gain) > 1 else math.nan
    metrics = {
        "return_before": float(before.mean()),
        "return_after": float(after.mean()),
        "gain": float(gain.mean()),
        "gain_ci95": 1.96 * spread / math.sqrt(len(gain)),
        "worse_fraction": float((gain < 0).double().mean()),
        "env_steps": float(collected.env_steps),
        "invalid_episodes": float(collected.invalid_episodes),
    }
    distribution = collected.rollouts[0].distribution
    if isinstance(distribution, Gaussian):
        metrics["sigma"] = float(distribution.log_std[:, 0, 0].exp().mean())
    return metrics


def inner_gradient_norm(theta: Params, path: list[Params], inner: InnerLoop) -> float:
    """Mean over tasks of the norm of the first inner step divided by its step sizes."""
    if len(path) < 2:
        return 0.0
    params, learned = split_rates(theta)
    names = [name for name in params if inner.adapted is None or inner.adapted(name)]
    rates = resolve_rates(inner.lr, learned, params, names)
    total = torch.zeros(len(next(iter(path[0].values()))), dtype=torch.float64)
    for name in names:
        rate = rate_at(rates[name], params[name], 0)
        step = ((path[0][name] - path[1][name]) / rate).detach().double()
        total += step.nan_to_num(0.0, 0.0, 0.0).flatten(1).square().sum(1).cpu()
    return float(total.sqrt().mean())


def _std(x: Tensor, mask: Tensor) -> Tensor:
    count = mask.sum((1, 2)).clamp(min=1)
    mean = (x * mask).sum((1, 2)) / count
    centred = (x - mean[:, None, None]) * mask
    return (centred.square().sum((1, 2)) / count).sqrt() + 1e-8


def _require_finite(params: Params) -> None:
    for name, p in params.items():
        finite = p.flatten(1).isfinite().all(1)
        if not bool(finite.all()):
            task = int((~finite).nonzero()[0])
            raise NonFiniteError(
                f"the inner gradient of {name} for task {task} is not finite",
                place="inner gradient",
                task=task,
            )
