"""Losses of one regression task."""

from collections.abc import Callable

from torch import Tensor

from metarl.errors import InputError
from metarl.loss import Loss
from metarl.params import Params

from .sinusoid import Regression


def mean_squared_error(apply: Callable[..., Tensor]) -> Loss:
    """``loss(params, batch) = mean over points of (apply(params, x) - y)^2``, for one task.

    Args:
        apply: pure function of a module, as `metarl.from_module` returns it.

    The loss raises:
        InputError: predictions and ``y`` have different shapes, of which torch would make all
            pairs.
    """

    def loss(params: Params, batch: Regression) -> Tensor:
        predicted = apply(params, batch.x)
        if predicted.shape != batch.y.shape:
            raise InputError(
                f"predictions of a task have the shape {tuple(predicted.shape)} and its y has "
                f"{tuple(batch.y.shape)}: both are (point, feature)"
            )
        return (predicted - batch.y).square().mean()

    return loss
