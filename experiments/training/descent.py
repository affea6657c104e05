"""Adam as the meta-optimiser: where it starts, and one checked step of it."""

import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..family import State
from ..machine import Machine
from .decay import decay


def adam_state(params: dict[str, Tensor], lr: float, seed: int, machine: Machine) -> State:
    """Theta and a fresh Adam over it."""
    optimizer = torch.optim.Adam(params.values(), lr=lr, fused=machine.device != "mps")
    return State(params, optimizer, {"seed": seed})


def descend(
    state: State,
    loss: Tensor,
    gradient: dict[str, Tensor],
    config: Any,
    iteration: int,
    non_finite: Callable[[], NoReturn],
    *,
    clip: float | None = None,
) -> dict[str, float]:
    """One Adam step down a meta-gradient, in place, unless something is not finite.

    Args:
        state: theta and its optimiser.
        loss: at theta.
        gradient: of the loss, by parameter.
        config: the family's, for ``lr``, ``lr_decay`` and ``iterations``.
        iteration: which one this is, from 0.
        non_finite: raises, naming what is not finite; theta is as it was.
        clip: bound on each element of the gradient.

    Returns:
        ``loss_after`` and ``gradient_norm``.
    """
    assert state.optimizer is not None
    theta = list(state.params.values())
    slopes = [gradient[name] for name in state.params]
    norm = _norm(slopes, 2.0)
    # An infinite parameter may switch its units off, and the loss looks well.
    largest = _norm([p.detach() for p in theta], math.inf)
    metrics = {"loss_after": float(loss), "gradient_norm": norm}
    if not math.isfinite(sum(metrics.values()) + largest):
        non_finite()
    if clip is not None:
        slopes = [x.clamp(-clip, clip) for x in slopes]
    state.optimizer.param_groups[0]["lr"] = config.lr * decay(config, iteration)
    for p, slope in zip(theta, slopes, strict=True):
        p.grad = slope
    state.optimizer.step()
    return metrics


def _norm(tensors: list[Tensor], order: float) -> float:
    """``torch.nn.utils.get_total_norm`` of tensors on one device, in a third of its time."""
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors, order)), order))
