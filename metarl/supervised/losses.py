"""Losses of one regression task."""

from collections.abc import Callable

from torch import Tensor

from metarl.inner import Loss
from metarl.params import Params

from .sinusoid import Regression


def mean_squared_error(apply: Callable[..., Tensor]) -> Loss:
    """``loss(params, batch) = mean over points of (apply(params, x) - y)^2``, for one task.

    Args:
        apply: pure function of a module, as `metarl.from_module` returns it.
    """

    def loss(params: Params, batch: Regression) -> Tensor:
        return (apply(params, batch.x) - batch.y).square().mean()

    return loss
