"""The loss of one few-shot classification task."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from metarl.loss import Loss
from metarl.params import Params

from .episodes import Episode


class Classified(NamedTuple):
    """What a classification loss returns: means over the images of one task."""

    loss: Tensor  # (), nats
    accuracy: Tensor  # (), in [0, 1]


def cross_entropy(apply: Callable[..., Tensor]) -> Loss:
    """Mean cross-entropy, ``-1/n sum_j log softmax(apply(params, x_j))[y_j]``, and the accuracy.

    The authors' code descends ``ways`` times this mean; step sizes here are in units of the mean,
    so theirs are to be multiplied by the number of ways.

    Args:
        apply: pure function of a net of `metarl.images.nets`, as `metarl.from_module` returns it:
            ``apply(params, images, reference, step) -> logits``. Of a net of one's own
            ``apply(params, images)``, for episodes without reference and step: ``[support] * 5``.

    Returns:
        ``loss(params, episode) -> Classified`` of ONE task.
    """

    def loss(params: Params, batch: Episode) -> Classified:
        plain = batch.reference is None and batch.step is None
        more = () if plain else (batch.reference, batch.step)
        logits = apply(params, batch.images, *more)
        hit = logits.detach().argmax(-1) == batch.labels
        return Classified(
            functional.cross_entropy(logits, batch.labels), hit.to(logits.dtype).mean()
        )

    return loss
