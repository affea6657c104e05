"""Meta-updates of a policy's initial parameters: TRPO, ProMP and Adam, on one objective."""

import copy
import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from metarl.checks import check_counts
from metarl.errors import NonFiniteError
from metarl.mapping import ChunkFunction, each, resolve_mapping, run_chunks
from metarl.objective import Objective, mean_over_tasks
from metarl.params import Params
from metarl.reduction import InOrder, Reduce
from metarl.rl.batches import MetaBatch, subsample, task_arrays
from metarl.rl.clock import Clock
from metarl.rl.distributions import Distribution
from metarl.rl.objectives import PolicyObjectives
from metarl.trust_region import require_finite, trust_region_step

Metrics = dict[str, float]


def old_policy(
    objectives: PolicyObjectives, theta: Params, data: MetaBatch, *, mapping: str = "auto"
) -> MetaBatch:
    """``data`` whose old policies are the objective's own at ``theta``.

    Then every ratio is exactly 1 there, and the KL and its gradient exactly 0. The ones recorded by
    the sampler differ in the last bits, and so do the policies that ``linear`` steps reach around
    them.
    """
    with torch.no_grad():
        chunks = run_chunks(_policies(objectives), (theta,), data, resolve_mapping(mapping, data))
    old = [
        type(parts[0])(*map(torch.cat, zip(*parts, strict=True)))
        for parts in zip(*chunks, strict=True)
    ]
    supports = tuple(s._replace(old=o) for s, o in zip(data.supports, old[:-1], strict=True))
    return data._replace(supports=supports, query=data.query._replace(old=old[-1]))


def trpo_update(
    objectives: PolicyObjectives,
    theta: Params,
    data: MetaBatch,
    *,
    max_kl: float,
    cg_steps: int = 10,
    fisher_fraction: float = 0.1,
    generator: torch.Generator,
    damping: float = 1e-5,
    mapping: str = "auto",
    reduce: Reduce | InOrder | None = None,
    clock: Clock | None = None,
) -> tuple[Params, Metrics]:
    """One `trust_region_step` on the surrogate after adaptation.

    Gradient, line search and KL constraint see all data. The Fisher products see the same random
    ``fisher_fraction`` of the time steps of every support and of the query: they adapt on these,
    and the KL is to the policy so adapted.

    Args:
        objectives: the task functions.
        theta: initial parameters.
        data: of all tasks; old policies as in `old_policy`.
        max_kl: trust region, nats, mean over tasks after adaptation.
        cg_steps: conjugate-gradient steps, see `trust_region_step`.
        fisher_fraction: of the time steps, in (0, 1]; see `subsample`.
        generator: draws them.
        damping: added to the Fisher matrix's diagonal.
        mapping: see `mean_over_tasks`.
        reduce: likewise, where ranks share the tasks.
        clock: collects ``gradient``, ``fisher`` and ``line_search``, if wanted.

    Returns:
        The new theta (the same object where the step was rejected), and metrics.
    """
    clock = clock or Clock()
    few = subsample(data, fisher_fraction, generator, reduce=reduce)
    # Chosen once: by their few steps tasks would seem small, but their activations are not.
    mapping = str(resolve_mapping(mapping, data))
    shared: Any = {"mapping": mapping, "reduce": reduce}
    whole = mean_over_tasks(objectives.surrogate, data, **shared)
    products = mean_over_tasks(objectives.surrogate, few, fisher=objectives.fisher, **shared)
    timed = whole._replace(
        value=clock.timed("line_search", whole.value),
        gradient=clock.timed("gradient", whole.gradient),
        fisher=clock.timed("fisher", products.fisher),
    )
    theta, info = trust_region_step(timed, theta, max_kl=max_kl, damping=damping, cg_steps=cg_steps)
    return theta, {
        "loss": info.loss,
        "kl": info.kl,
        "step_accepted": float(info.accepted),
        "backtracks": float(info.backtracks),
        "gradient_norm": info.gradient_norm,
    }


def adam_update(
    objectives: PolicyObjectives,
    theta: Params,
    data: MetaBatch,
    optimizer: torch.optim.Optimizer,
    *,
    mapping: str = "auto",
    reduce: Reduce | InOrder | None = None,
    clock: Clock | None = None,
) -> Metrics:
    """One step of a torch optimiser on the surrogate after adaptation; ``theta`` moves in place."""
    objective = mean_over_tasks(objectives.surrogate, data, mapping=mapping, reduce=reduce)
    with (clock or Clock())("gradient"):
        loss, kl = _descend(objective, theta, optimizer)
    return {"loss": float(loss), "kl": float(kl), "step_accepted": 1.0}


def promp_update(
    objectives: PolicyObjectives,
    theta: Params,
    data: MetaBatch,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int = 5,
    penalty: float,
    target_kl: float = 0.01,
    mapping: str = "auto",
    reduce: Reduce | InOrder | None = None,
    clock: Clock | None = None,
) -> tuple[Metrics, float]:
    """ProMP (Rothfuss et al. 2019): clipped surrogate with a penalty on the inner KL.

    ``epochs`` optimiser steps on ``penalty * mean_k KL(sampling policy k || policy k) - clipped
    ratio``; ``theta`` moves in place. The penalty is then halved where the inner KL is below
    ``target_kl / 1.5`` and doubled where it is above ``1.5 target_kl``.

    Returns:
        Metrics and the next penalty.

    Raises:
        InputError: no epochs.
        NonFiniteError: in any epoch; ``theta`` and the optimiser are as they were before the first.
    """
    check_counts(epochs=epochs)
    clock = clock or Clock()
    start = {name: p.detach().clone() for name, p in theta.items()}
    moments = copy.deepcopy(optimizer.state_dict())
    weights = data.query.mask.new_full((len(data.query.mask),), penalty)
    shared: Any = {"mapping": mapping, "reduce": reduce}
    objective = mean_over_tasks(objectives.clipped, (data, weights), **shared)
    try:
        with clock("gradient"):
            for _ in range(epochs):
                loss, _ = _descend(objective, theta, optimizer)
        with clock("line_search"):
            _, inner_kl = objective.value(theta)
            _, kl = mean_over_tasks(objectives.surrogate, data, **shared).value(theta)
            require_finite({"inner KL": inner_kl, "KL": kl})
    except NonFiniteError:
        with torch.no_grad():
            for name, p in theta.items():
                p.copy_(start[name])
        optimizer.load_state_dict(moments)
        raise
    drift = float(inner_kl)
    factor = 0.5 if drift < target_kl / 1.5 else 2.0 if drift > target_kl * 1.5 else 1.0
    metrics = {
        "loss": float(loss),
        "kl": float(kl),
        "step_accepted": 1.0,
        "inner_kl": drift,
        "inner_kl_penalty": penalty,
    }
    # Bounded, for what has been halved a thousand times would never come back.
    return metrics, min(max(penalty * factor, 1e-6), 1e6)


def blame(
    error: NonFiniteError, objectives: PolicyObjectives, theta: Params, data: MetaBatch
) -> NonFiniteError:
    """Name the task behind an error of a mean over tasks, with its data, where one can be found.

    Args:
        error: raised by an update, before ``theta`` moved.
        objectives: the task functions.
        theta: initial parameters.
        data: of all tasks.
    """
    for task in range(len(data.score_weights)):
        own = tree_map(lambda x, task=task: x[task : task + 1], data)
        objective = mean_over_tasks(objectives.surrogate, own, mapping="vmap")
        try:
            _require_usable(*objective.gradient(theta))
        except NonFiniteError as found:
            return NonFiniteError(
                f"{found} (task {task})",
                place=found.place,
                task=task,
                batch=task_arrays((*data.supports, data.query), task),
            )
    return error


def _descend(
    objective: Objective, theta: Params, optimizer: torch.optim.Optimizer
) -> tuple[Tensor, Tensor]:
    """One optimiser step; loss and KL before it."""
    loss, kl, gradient = objective.gradient(theta)
    _require_usable(loss, kl, gradient)
    for name, g in gradient.items():
        theta[name].grad = g
    optimizer.step()
    return loss, kl


def _require_usable(loss: Tensor, kl: Tensor, gradient: Params) -> None:
    # Squares too: infinite second moments would stop the optimiser for good.
    squares = {f"outer gradient of {name}": g.square().sum() for name, g in gradient.items()}
    require_finite({"loss": loss, "KL": kl, **squares})


@functools.lru_cache(maxsize=8)
def _policies(objectives: PolicyObjectives) -> ChunkFunction:
    def policies(shared: tuple[Params], data: MetaBatch) -> tuple[Distribution, ...]:
        return objectives.policies(*shared, data)

    return each(policies)
