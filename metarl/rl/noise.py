"""Noise of the actions, the same for an episode whoever samples it."""

import numpy as np
import torch
from torch import Tensor

from metarl.rl.distributions import Gaussian
from metarl.rl.rollout import Rollout
from metarl.streams import stream

# One stream serves so many rows, lest those of the last tasks draw the noise of all before them.
_ROWS = 4096


def action_noise(seed: int, out: Rollout, first: int) -> Tensor:
    """What `sample` needs for ``out (row, time, ...)``; a row's does not depend on other rows.

    Args:
        seed: of the collection.
        out: tells shapes, the kind of distribution and the device.
        first: number of its first row among those of all tasks.
    """
    rows, shape = len(out.actions), out.actions.shape[1:]
    parts = []
    for block in range(first // _ROWS, -(-(first + rows) // _ROWS)):
        rng = stream(seed, "action-noise", *([block] if block else []))
        low, high = max(first - block * _ROWS, 0), min(first + rows - block * _ROWS, _ROWS)
        draw = rng.standard_normal if isinstance(out.distribution, Gaussian) else rng.random
        parts.append(draw((high, *shape), dtype=np.float32)[low:])
    noise = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return torch.from_numpy(noise).to(out.actions.device)
