"""Step sizes of the inner loop: fixed or learned, per tensor, element or step."""

from typing import Literal

import torch
from torch import Tensor

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
    """
    rates = {}
    for name, p in split_rates(params)[0].items():
        own = p.shape if per == "element" else torch.Size([1] * p.ndim if steps else [])
        shape = (steps, *own) if steps else own
        rates[RATE_PREFIX + name] = torch.full(
            shape, lr, dtype=p.dtype, device=p.device, requires_grad=True
        )
    return rates


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
            rates[name] = lr[name]
        else:
            raise InputError(f"InnerLoop.lr has no step size for {name}, which adapts")
    return rates


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
