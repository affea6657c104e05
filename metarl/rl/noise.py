"""Noise of the actions, the same for an episode whoever samples it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.streams import stream

from .distributions import Distribution, Gaussian
from .rollout import Rollout

# Rows of one random stream. With one stream for all, whoever samples the last tasks would have to
# draw the noise of all before them.
_ROWS = 4096


def draw_noise(rng: np.random.Generator, like: Distribution, *leading: int) -> NDArray[np.float32]:
    """What `sample` needs of distributions ``(*leading, action)``, by their kind.

    In float32: of float64 the largest uniform numbers would round to 1 there.

    Args:
        rng: draws it.
        like: tells the kind and the number of actions; its own leading dimensions do not matter.
        leading: dimensions before the last one.

    Returns:
        Standard normal ``(*leading, action)`` for `Gaussian`, uniform ``leading`` for
        `Categorical`.
    """
    if isinstance(like, Gaussian):
        return rng.standard_normal((*leading, like.mean.shape[-1]), dtype=np.float32)
    return rng.random(leading, dtype=np.float32)


def action_noise(seed: int, out: Rollout, first: int) -> Tensor:
    """What `sample` needs for ``out (row, time, ...)``; a row's does not depend on other rows.

    Args:
        seed: of the collection.
        out: tells shapes, the kind of distribution and the device.
        first: number of its first row among those of all tasks.
    """
    rows, horizon = out.mask.shape
    parts = []
    for block in range(first // _ROWS, -(-(first + rows) // _ROWS)):
        rng = stream(seed, "action-noise", *([block] if block else []))
        low, high = max(first - block * _ROWS, 0), min(first + rows - block * _ROWS, _ROWS)
        parts.append(draw_noise(rng, out.distribution, high, horizon)[low:])
    noise = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return torch.from_numpy(noise).to(out.actions.device)
