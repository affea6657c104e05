"""Trust-region step (TRPO, Schulman et al. 2015) on any `Objective`."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_counts, check_positive
from .errors import InputError
from .finite import require_finite
from .objective import Objective
from .params import Params, moving


class StepInfo(NamedTuple):
    """What a trust-region step did.

    Attributes:
        loss_before: loss at the start.
        loss: loss where the step ended (the start, if rejected).
        kl: KL divergence from the start to there.
        accepted: whether the parameters moved.
        backtracks: step sizes tried before the accepted one, or all of them.
        gradient_norm: Euclidean norm of the gradient.
        expected: decrease of the loss that the gradient predicts for the full step.
    """

    loss_before: float
    loss: float
    kl: float
    accepted: bool
    backtracks: int
    gradient_norm: float
    expected: float


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, *, steps: int, tolerance: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Solve ``A x = b`` for symmetric positive definite A, from ``x = 0``, without randomness.

    Args:
        product: ``p -> A p``.
        b: right-hand side, ``(n,)``; not overwritten.
        steps: at most so many products.
        tolerance: stop when the squared residual norm falls below this multiple of b's.

    Returns:
        The solution so far and its residual ``b - A x``; where ``p' A p <= 0`` shows that A is
        not positive definite, those before that direction.
    """
    x = torch.zeros_like(b)
    r = b.clone()
    p = b.clone()
    rr = bb = r.dot(r)
    for _ in range(steps):
        if not rr > tolerance * bb:
            break
        ap = product(p)
        curvature = p.dot(ap)
        if not curvature > 0:
            break
        step = rr / curvature
        x = x + step * p
        r = r - step * ap
        rr_next = r.dot(r)
        p = r + (rr_next / rr) * p
        rr = rr_next
    return x, r


def trust_region_step(
    objective: Objective,
    params: Params,
    *,
    max_kl: float,
    damping: float = 1e-5,
    cg_steps: int = 10,
    backtracks: int = 15,
    shrink: float = 0.8,
    resolution: float = 0.0,
) -> tuple[Params, StepInfo]:
    """Minimise the loss within ``kl <= max_kl``: ``theta + shrink^j * sqrt(2 max_kl / s'As) s``.

    ``A = F + damping I``, ``A s = -gradient`` by conjugate gradient, and j is the first of
    ``0 .. backtracks - 1`` at which the loss is below the start's and ``kl <= max_kl``. If there
    is none, or ``s'As <= 0``, or the gradient predicts a decrease within ``resolution``, the
    parameters returned are those given. Losses and products are of the parameters' type, vectors
    float64.

    Args:
        objective: means over tasks, see `Objective`.
        params: where to start; not changed.
        max_kl: radius of the trust region, nats.
        damping: multiple of the identity added to the Fisher matrix.
        cg_steps: Fisher products at most.
        backtracks: step sizes tried at most.
        shrink: ratio of one step size to the next.
        resolution: decreases of the loss up to this are rounding. Where nothing is left to gain,
            the gradient is rounding and F may be next to zero; damping alone would then make a
            long step of it.

    Raises:
        InputError: ``max_kl`` is not above 0, ``damping`` or ``resolution`` below 0, a count below
            1, or ``shrink`` not between 0 and 1.
        NonFiniteError: loss, KL, gradient or a Fisher product are not finite at the start.
    """
    check_positive("max_kl", max_kl)
    check_counts(cg_steps=cg_steps, backtracks=backtracks)
    if not damping >= 0:
        raise InputError(f"damping is {damping}: it must be at least 0")
    if resolution < 0:  # not a number where the loss is none either, which is told below
        raise InputError(f"resolution is {resolution}: it must be at least 0")
    if not 0 < shrink < 1:
        raise InputError(f"shrink is {shrink}: it must be above 0 and below 1")
    loss_before, kl, gradient = objective.gradient(params)
    require_finite({"loss": loss_before, "KL": kl})
    require_finite({f"outer gradient of {name}": g for name, g in gradient.items()})
    free = set(moving(params))
    held = {name: torch.full_like(p, float(name in free)) for name, p in params.items()}
    kept = None if len(free) == len(params) else _flat(held, params)

    def within(v: Tensor) -> Tensor:
        return v if kept is None else v * kept

    # Vectors are float64: in float32 their rounding, which depends on the number of threads, grows
    # a hundred times and more within ten steps.
    g = within(_flat(gradient, params))

    def product(v: Tensor) -> Tensor:
        fv = within(_flat(objective.fisher(params, _like(v, params)), params))
        require_finite({"Fisher product": fv})
        return fv + damping * v

    direction, residual = conjugate_gradient(product, -g, steps=cg_steps)
    # s'As without another Fisher product: A s = -g - residual.
    curvature = float(direction.dot(-g - residual))
    loss_start, norm = float(loss_before), float(torch.linalg.vector_norm(g))
    rejected = StepInfo(loss_start, loss_start, 0.0, False, 0, norm, 0.0)
    if not (curvature > 0 and math.isfinite(curvature)):
        return params, rejected
    full = math.sqrt(2 * max_kl / curvature) * direction
    expected = -float(full.dot(g))
    rejected = rejected._replace(expected=expected)
    if expected <= resolution:
        return params, rejected
    start = _flat(params, params)
    for j in range(backtracks):
        moved = _like(start + shrink**j * full, params)
        loss, kl = objective.value(moved)
        if loss < loss_before and kl <= max_kl:
            # No views of one vector, and as ready for gradients as those given.
            moved = {n: p.clone().requires_grad_(params[n].requires_grad) for n, p in moved.items()}
            return moved, StepInfo(loss_start, float(loss), float(kl), True, j, norm, expected)
    return params, rejected._replace(backtracks=backtracks)


def _flat(tree: Params, like: Params) -> Tensor:
    """The entries of ``tree`` in one vector, in the order of ``like`` whatever their own.

    It is of the CPU, since not all devices have float64.
    """
    return torch.cat([tree[name].detach().reshape(-1).cpu().double() for name in like])


def _like(flat: Tensor, params: Params) -> Params:
    parts = torch.split(flat, [p.numel() for p in params.values()])
    pairs = zip(params.items(), parts, strict=True)
    return {name: part.view_as(p).to(p) for (name, p), part in pairs}
