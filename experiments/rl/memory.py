"""What a meta-iteration of policies will take of memory."""

from typing import Any

import torch
from torch import Tensor

import metarl
from metarl.footprint import shapes
from metarl.mapping import resolve_mapping
from metarl.rl.batches import Batch, MetaBatch, kept_steps
from metarl.rl.distributions import Gaussian
from metarl.rl.objectives import Apply, PolicyObjectives

from ..configs.rl import Config
from ..memory import Needs, mapped, size


def policy_needs(
    config: Config,
    objectives: PolicyObjectives,
    apply: Apply,
    params: metarl.Params,
    *,
    tasks: int,
    features: int,
    mapping: str,
    threads: int,
) -> Needs:
    """Of rollouts, their gradient and Fisher products.

    Args:
        config: numbers of steps, episodes and time steps.
        objectives: the task functions.
        apply: the policy.
        params: theta.
        tasks: of this rank.
        features: of an observation.
        mapping: of the update.
        threads: that it runs on.
    """
    theta = shapes(params)
    model, _ = metarl.split_rates(theta)

    def batches(time: int) -> MetaBatch:
        like = next(iter(theta.values()))
        observations = like.new_empty(tasks, config.episodes, time, features)
        old = apply(model, observations)
        weights = observations[..., 0].clone()
        discrete = torch.empty(weights.shape, dtype=torch.int64, device="meta")
        actions = old.mean if isinstance(old, Gaussian) else discrete
        batch = Batch(observations, actions, weights, weights, old)
        corrected = config.sampling_correction != "off"
        scores = weights[:, 0, 0] if corrected else None
        return MetaBatch((batch,) * config.inner_steps, batch, scores)

    data = batches(config.env.horizon)
    definite = resolve_mapping(mapping, data)

    def gradient(part: MetaBatch) -> Any:
        return metarl.mean_over_tasks(objectives.surrogate, part, mapping="vmap").gradient(theta)

    def product(part: MetaBatch) -> Any:
        objective = metarl.mean_over_tasks(
            objectives.surrogate, part, fisher=objectives.fisher, mapping="vmap"
        )
        # The objective holds what it has linearised, of all tasks.
        return objective, objective.fisher(theta, theta)

    working = mapped(gradient, data, definite, threads=threads)
    if config.update == "trpo":
        few = batches(kept_steps(config.env.horizon, config.fisher_fraction))
        on_threads = definite._replace(kind="threads") if definite.chunk == 1 else definite
        working = max(
            working, size(few) + mapped(product, few, on_threads, threads=threads, holds=True)
        )
    return Needs(_recorded(data), working + 3 * size(theta))


def _recorded(data: MetaBatch) -> int:
    """Bytes of all rollouts: batches, policies as sampled and computed, rewards and noise."""
    query = data.query
    numbers: tuple[Tensor, ...] = (*query.old, query.actions, query.weights, query.weights)
    flags = 2 * query.mask.numel()
    return (1 + len(data.supports)) * (size(query) + size(numbers) + flags)
