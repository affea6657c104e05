"""How meta step sizes shrink over a training."""

import math
from typing import Any

# Of the trust region, at the end of a cosine: there is no step of length 0.
_LEAST_KL = 0.01


def decay(config: Any, iteration: int) -> float:
    """What the meta step size is multiplied with in an iteration.

    Args:
        config: the family's, for ``lr_decay`` ("none", or "cosine" from 1 to 0) and ``iterations``.
        iteration: which one, from 0.
    """
    if config.lr_decay != "cosine":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(iteration / config.iterations, 1)))


def kl_limit(config: Any, iteration: int) -> float:
    """The trust region of an iteration, in nats, shrinking alike to a hundredth."""
    return float(config.max_kl * max(decay(config, iteration), _LEAST_KL))
