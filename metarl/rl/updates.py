"""Meta-updates of a policy's initial parameters: TRPO, ProMP and Adam, on one objective."""

import copy
from typing import Any

import torch
from torch import Tensor

from metarl.checks import check_counts
from metarl.errors import InputError, NonFiniteError
from metarl.finite import require_finite
from metarl.mapping import resolve_mapping
from metarl.objective import Objective, mean_over_tasks
from metarl.params import Params, moving
from metarl.reduction import Reducer, sum_over_ranks
from metarl.trust_region import trust_region_step

from .batches import MetaBatch, subsample
from .clock import Clock
from .objectives import PolicyObjectives

Metrics = dict[str, float]
# Of a ratio, its product with a weight and their mean, in units of the type's last place.
_ROUNDING = 8


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
    reduce: Reducer | None = None,
    clock: Clock | None = None,
) -> tuple[Params, Metrics]:
    """One `trust_region_step` on the surrogate after adaptation; none where its gain is rounding.

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
    theta, info = trust_region_step(
        timed,
        theta,
        max_kl=max_kl,
        damping=damping,
        cg_steps=cg_steps,
        resolution=_resolution(theta, data, reduce),
    )
    return theta, {
        "loss": info.loss,
        "kl": info.kl,
        "step_accepted": float(info.accepted),
        "backtracks": float(info.backtracks),
        "gradient_norm": info.gradient_norm,
    }


def _resolution(theta: Params, data: MetaBatch, reduce: Reducer | None) -> float:
    """Rounding of the surrogate, a mean of ratios times weights."""
    query = data.query
    sums = torch.stack([(query.weights * query.mask).abs().sum(), query.mask.sum()])
    size, steps = sum_over_ranks(sums, reduce)
    return _ROUNDING * torch.finfo(next(iter(theta.values())).dtype).eps * float(size / steps)


def adam_update(
    objectives: PolicyObjectives,
    theta: Params,
    data: MetaBatch,
    optimizer: torch.optim.Optimizer,
    *,
    mapping: str = "auto",
    reduce: Reducer | None = None,
    clock: Clock | None = None,
) -> tuple[Params, Metrics]:
    """One step of a torch optimiser on the surrogate after adaptation.

    Args:
        objectives: the task functions.
        theta: the optimiser's parameters, which move in place.
        data: of all tasks; old policies as in `old_policy`.
        optimizer: any of torch's whose step takes no closure; theta holds its parameters.
        mapping: see `mean_over_tasks`.
        reduce: likewise, where ranks share the tasks.
        clock: collects ``gradient``, if wanted.

    Returns:
        The same theta, moved, and metrics.

    Raises:
        InputError: the optimiser does not hold all of theta that moves.
        NonFiniteError: loss, KL or gradient; theta has not moved.
    """
    _check_held(theta, optimizer)
    objective = mean_over_tasks(objectives.surrogate, data, mapping=mapping, reduce=reduce)
    with (clock or Clock())("gradient"):
        loss, kl = _descend(objective, theta, optimizer)
    return theta, {"loss": float(loss), "kl": float(kl), "step_accepted": 1.0}


def promp_update(
    objectives: PolicyObjectives,
    theta: Params,
    data: MetaBatch,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int = 5,
    penalty: float,
    mapping: str = "auto",
    reduce: Reducer | None = None,
    clock: Clock | None = None,
) -> tuple[Params, Metrics]:
    """ProMP (Rothfuss et al. 2019): clipped surrogate with a penalty on the inner KL.

    ``epochs`` optimiser steps on ``penalty * mean_k KL(sampling policy k || policy k) - clipped
    ratio``.

    Args:
        objectives: the task functions.
        theta: as in `adam_update`.
        data: likewise.
        optimizer: likewise.
        epochs: steps on the same data.
        penalty: of the inner KL; see `next_penalty`.
        mapping: see `mean_over_tasks`.
        reduce: likewise, where ranks share the tasks.
        clock: collects ``gradient`` and ``line_search``, if wanted.

    Returns:
        The same theta, moved, and metrics; ``inner_kl`` decides the next penalty.

    Raises:
        InputError: no epochs, or as in `adam_update`.
        NonFiniteError: in any epoch; ``theta`` and the optimiser are as they were before the first.
    """
    check_counts(epochs=epochs)
    _check_held(theta, optimizer)
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
    return theta, {
        "loss": float(loss),
        "kl": float(kl),
        "step_accepted": 1.0,
        "inner_kl": float(inner_kl),
        "inner_kl_penalty": penalty,
    }


def next_penalty(penalty: float, inner_kl: float, *, target_kl: float) -> float:
    """Halved where the inner KL is below ``target_kl / 1.5``, doubled above ``1.5 target_kl``.

    Bounded by 1e-6 and 1e6, for what has been halved a thousand times would never come back.
    """
    factor = 0.5 if inner_kl < target_kl / 1.5 else 2.0 if inner_kl > target_kl * 1.5 else 1.0
    return min(max(penalty * factor, 1e-6), 1e6)


def _check_held(theta: Params, optimizer: torch.optim.Optimizer) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name in moving(theta) if id(theta[name]) not in held]
    if missing:
        raise InputError(
            f"the optimiser does not hold {missing[0]}, which would not move: build it from "
            "theta.values(), which are not the module's own parameters, and anew for a new theta; "
            "what is to stay as it is takes requires_grad_(False)"
        )


def _descend(
    objective: Objective, theta: Params, optimizer: torch.optim.Optimizer
) -> tuple[Tensor, Tensor]:
    """One optimiser step; loss and KL before it."""
    loss, kl, gradient = objective.gradient(theta)
    require_usable(loss, kl, gradient)
    for name in moving(theta):
        theta[name].grad = gradient[name]
    optimizer.step()
    return loss, kl


def require_usable(loss: Tensor, kl: Tensor, gradient: Params) -> None:
    """Refuse what is not finite, or has squares that are not.

    Infinite second moments would stop the optimiser for good.
    """
    squares = {f"outer gradient of {name}": g.square().sum() for name, g in gradient.items()}
    require_finite({"loss": loss, "KL": kl, **squares})
