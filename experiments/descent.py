"""Adam as the meta-optimiser: where it starts, and one checked step of it."""

import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from .family import State
from .machine import Machine


def adam_state(params: dict[str, Tensor], lr: float, seed: int, machine: Machine) -> State:
    """Theta and a fresh Adam over it."""
    optimizer = torch.optim.Adam(params.values(), lr=lr, fused=machine.device != "mps")
    return State(params, optimizer, {"seed": seed})


def descend(
    state: State,
    loss: Tensor,
    config: Any,
    iteration: int,
    non_finite: Callable[[], NoReturn],
    *,
    clip: float | None = None,
) -> dict[str, float]:
    """One Adam step on a meta-loss, in place, unless something is not finite.

    Args:
        state: theta and its optimiser.
        loss: of ``metarl.meta_loss`` at theta.
        config: the family's, for ``lr``, ``lr_decay`` and ``iterations``.
        iteration: which one this is, from 0.
        non_finite: raises, naming what is not finite; theta is as it was.
        clip: bound on each element of the gradient.

    Returns:
        ``loss_after`` and ``gradient_norm``.
    """
    assert state.optimizer is not None
    torch.autograd.backward(loss)
    theta = list(state.params.values())
    norm = torch.nn.utils.get_total_norm([p.grad for p in theta if p.grad is not None])
    # An infinite parameter may switch its units off, and the loss looks well.
    largest = float(torch.nn.utils.get_total_norm(theta, math.inf))
    metrics = {"loss_after": float(loss.detach()), "gradient_norm": float(norm)}
    if not math.isfinite(sum(metrics.values()) + largest):
        non_finite()
    if clip is not None:
        torch.nn.utils.clip_grad_value_(theta, clip)
    if config.lr_decay == "cosine":
        turn = math.pi * min(iteration / config.iterations, 1)
        state.optimizer.param_groups[0]["lr"] = config.lr * 0.5 * (1 + math.cos(turn))
    state.optimizer.step()
    state.optimizer.zero_grad()
    return metrics
