"""Step sizes of the inner loop: fixed, learned or measured, per tensor, element or step."""

import math
from typing import Literal

import torch
from torch import Tensor

from .checks import check_choice, check_counts
from .errors import InputError
from .params import RATE_PREFIX, Params, split_rates


def learned_rates(
    params: Params, lr: float, *, per: Literal["tensor", "element"], steps: int | None = None
) -> Params:
    """Step sizes to merge into theta so that they are learned with it.

    Args:
        params: the parameters they move.
        lr: initial value.
        per: one ``tensor`` or one ``element`` (Meta-SGD) a step size.
        steps: separate ones for each of so many steps (LSLR); None for the same in all.

    Returns:
        ``inner_lr.<name>`` -> leaf tensor, for ``theta = {**params, **learned_rates(...)}``.

    Raises:
        InputError: ``per`` is neither, ``steps`` is below 1, or ``lr`` is not finite.
    """
    check_choice("per", per, ("tensor", "element"))
    if steps is not None:
        check_counts(steps=steps)
    if not math.isfinite(lr):
        raise InputError(f"lr is {lr}: it must be finite")
    rates = {}
    for name, p in split_rates(params)[0].items():
        own = p.shape if per == "element" else torch.Size([1] * p.ndim if steps else [])
        shape = (steps, *own) if steps else own
        rates[RATE_PREFIX + name] = torch.full(
            shape, lr, dtype=p.dtype, device=p.device, requires_grad=True
        )
    return rates


@torch.no_grad()
def step_moments(first: Params, second: Params) -> tuple[Params, Params]:
    """Second moments of inner steps that the same tasks take on two independent supports.

    Args:
        first: name -> ``(task, *shape)``, steps at one step size for all elements, such as
            ``theta_1 - theta_0`` of `adapt_path`.
        second: likewise, of the same tasks on other supports.

    Returns:
        ``E[d d']`` and ``E[d^2]`` over tasks, each name -> ``shape``: what the two steps of a task
        have in common, and all of a step.
    """
    signal = {name: (d * second[name]).mean(0) for name, d in first.items()}
    power = {n: (d.square() + second[n].square()).mean(0) / 2 for n, d in first.items()}
    return signal, power


@torch.no_grad()
def signal_rates(signal: Params, power: Params, lr: float) -> Params:
    """Step sizes per element, large where tasks' steps are signal and small where they are noise.

    With ``S = max(E[d d'], 0)`` and ``P = E[d^2]`` of `step_moments`, the factor ``w = S / P``
    brings a step closest to its signal in the mean square (Wiener's filter), and

        rates = lr w sum(S) / sum(w S),

    sums over all elements, keeps the step as long along its signal as ``lr`` makes it.

    Args:
        signal: name -> ``shape``, mean over tasks.
        power: likewise.
        lr: step size without a filter.

    Returns:
        ``inner_lr.<name>`` -> leaf tensor of the parameter's shape, like `learned_rates`.

    Raises:
        InputError: the steps of a task have nothing in common.
    """
    positive = {name: s.clamp(min=0) for name, s in signal.items()}
    factors = {
        name: torch.where(p > 0, positive[name] / p, torch.zeros_like(p))
        for name, p in power.items()
    }
    total = sum(float(s.sum()) for s in positive.values())
    kept = sum(float((factors[name] * s).sum()) for name, s in positive.items())
    if not kept > 0:
        raise InputError(
            "the steps that a task takes on two supports have nothing in common: give more tasks, "
            "larger supports, or a theta that has learned to adapt"
        )
    return {
        RATE_PREFIX + name: (lr * total / kept * w).requires_grad_() for name, w in factors.items()
    }


def check_fixed(lr: float | Params) -> None:
    """Refuse step sizes of `InnerLoop` that are to be learned: only those in theta are.

    Raises:
        InputError: one requires gradients.
    """
    if isinstance(lr, dict) and any(isinstance(x, Tensor) and x.requires_grad for x in lr.values()):
        raise InputError(
            "InnerLoop.lr holds tensors that require gradients, which a meta-gradient would not "
            "give them: merge learned step sizes into params (learned_rates), or detach these"
        )


def resolve_rates(
    lr: float | Params, learned: Params, params: Params, names: list[str]
) -> dict[str, Tensor | float]:
    """The step size of each parameter that adapts: a learned one first, else ``InnerLoop.lr``."""
    if not names:
        raise InputError(
            f"InnerLoop.adapted selects none of the parameters {', '.join(params)}: nothing adapts"
        )
    stray = sorted(set(learned) - set(names))
    if stray:
        raise InputError(
            f"learned step size {RATE_PREFIX}{stray[0]} moves nothing: there is no such parameter, "
            "or InnerLoop.adapted leaves it out"
        )
    unknown = sorted(set(lr) - set(params)) if isinstance(lr, dict) else []
    if unknown:
        raise InputError(f"InnerLoop.lr has a step size for {unknown[0]}: no such parameter")
    rates: dict[str, Tensor | float] = {}
    for name in names:
        if name in learned:
            rates[name] = learned[name]
        elif not isinstance(lr, dict):
            rates[name] = lr
        elif name in lr:
            rates[name] = rate_of(lr[name], params[name])
        else:
            raise InputError(f"InnerLoop.lr has no step size for {name}, which adapts")
    return rates


def rate_of(rate: Tensor | float, p: Tensor) -> Tensor:
    """A step size of `InnerLoop.lr` in its parameter's type and on its device."""
    return torch.as_tensor(rate, dtype=p.dtype, device=p.device)


def rate_at(rate: Tensor | float, p: Tensor, step: int) -> Tensor | float:
    """The step size of one parameter at one step, broadcastable to the parameter."""
    if not isinstance(rate, Tensor) or rate.ndim == 0 or rate.shape == p.shape:
        return rate
    # (steps,) would mean per element to a one-dimensional parameter that has as many elements.
    scalar = (1,) if p.ndim == 1 else ()
    if len(rate) == 0 or rate.shape[1:] not in (scalar, (1,) * p.ndim, p.shape):
        raise InputError(
            f"a step size of shape {tuple(rate.shape)} fits no parameter of shape "
            f"{tuple(p.shape)}: use (), the parameter's shape, or one of these after (steps,), "
            "which is (steps, 1) for a one-dimensional parameter's ()"
        )
    return rate[min(step, len(rate) - 1)]
