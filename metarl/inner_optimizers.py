"""Step directions of the inner loop as pure functions, equal to torch.optim's.

The parameters move by ``-lr * step`` where ``step, state = direction(gradient, state)``, from
``state = start(parameters that adapt)``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .params import Params

MOMENTUM = 0.9
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class InnerOptimizer(NamedTuple):
    """How gradients become steps.

    Attributes:
        start: parameters -> state.
        direction: (gradient, state) -> (step, state).
    """

    start: Callable[[Params], Any]
    direction: Callable[[Params, Any], tuple[Params, Any]]


def _zeros(params: Params) -> Params:
    return {name: torch.zeros_like(p) for name, p in params.items()}


def _momentum(gradient: Params, buffer: Params) -> tuple[Params, Params]:
    """``b_k = 0.9 b_{k-1} + g_k``; step ``b_k``."""
    buffer = {name: MOMENTUM * buffer[name] + g for name, g in gradient.items()}
    return buffer, buffer


def _adam(
    gradient: Params, state: tuple[int, Params, Params]
) -> tuple[Params, tuple[int, Params, Params]]:
    """Kingma & Ba 2015: step ``m_k / (1 - b1^k) / (sqrt(v_k / (1 - b2^k)) + 1e-8)``."""
    k, m, v = state
    k += 1
    m = {name: BETA1 * m[name] + (1 - BETA1) * g for name, g in gradient.items()}
    v = {name: BETA2 * v[name] + (1 - BETA2) * g * g for name, g in gradient.items()}
    step = {
        name: m[name] / (1 - BETA1**k) / (_root(v[name] / (1 - BETA2**k)) + EPSILON)
        for name in gradient
    }
    return step, (k, m, v)


def _root(v: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0; a plain one's is infinite.

    One dead unit would otherwise make the whole meta-gradient NaN (infinity times zero), and one
    `where` is not enough: the unselected branch is differentiated too.
    """
    dead = v == 0
    return torch.where(dead, 0.0, torch.sqrt(torch.where(dead, 1.0, v)))


OPTIMIZERS: dict[str, InnerOptimizer] = {
    "sgd": InnerOptimizer(lambda params: None, lambda gradient, state: (gradient, state)),
    "momentum": InnerOptimizer(_zeros, _momentum),
    "adam": InnerOptimizer(lambda params: (0, _zeros(params), _zeros(params)), _adam),
}
