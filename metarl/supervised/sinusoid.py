"""Sinusoid regression (Finn, Abbeel, Levine 2017, section 5.1)."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, np.pi)
INPUT = (-5.0, 5.0)


class Sinusoids(NamedTuple):
    """Tasks ``y = amplitude * sin(x - phase)``."""

    amplitude: np.ndarray  # (task,)
    phase: np.ndarray  # (task,), radians


class Regression(NamedTuple):
    """Points of each task; one task's slice, as a loss sees it, lacks the leading dimension."""

    x: Tensor  # (task, point, input)
    y: Tensor  # (task, point, 1)


def sample_tasks(tasks: int, rng: np.random.Generator) -> Sinusoids:
    """Amplitudes from U[0.1, 5] and phases from U[0, pi]."""
    return Sinusoids(rng.uniform(*AMPLITUDE, tasks), rng.uniform(*PHASE, tasks))


def sample_points(
    tasks: Sinusoids,
    points: int,
    rng: np.random.Generator,
    *,
    observe_task: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Regression:
    """Draw inputs from U[-5, 5] and evaluate each task's sinusoid there.

    Args:
        tasks: which sinusoids.
        points: how many of each.
        rng: draws the inputs.
        observe_task: append amplitude and phase to the input (the oracle's).
        dtype: of the tensors.
        device: where they go.

    Returns:
        ``x (task, point, 1)`` or ``(task, point, 3)``, and ``y (task, point, 1)``.
    """
    amplitude, phase = tasks.amplitude[:, None], tasks.phase[:, None]
    x = rng.uniform(*INPUT, (len(tasks.amplitude), points))
    y = amplitude * np.sin(x - phase)
    inputs = [x, *(np.broadcast_to(t, x.shape) for t in (amplitude, phase) if observe_task)]
    as_tensor = torch.as_tensor
    return Regression(
        as_tensor(np.stack(inputs, -1), dtype=dtype, device=device),
        as_tensor(y[..., None], dtype=dtype, device=device),
    )
