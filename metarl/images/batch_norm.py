"""Batch norm without running statistics, by the moments of images that the caller chooses."""

import torch
from torch import Tensor, nn

from metarl.errors import InputError

EPSILON = 1e-3


class BatchNorm(nn.Module):
    """``gamma (y - mean) / sqrt(var + 1e-3) + beta``, moments per channel over given rows.

    Args:
        channels: number of channels.
        steps: None: one shift and no scale, the paper's. A number: one scale and one shift for
            each inner step, ``(steps, channels)`` (MAML++, Antoniou, Edwards, Storkey 2019);
            later steps use the last.
    """

    def __init__(self, channels: int, *, steps: int | None = None) -> None:
        super().__init__()
        shape = (channels,) if steps is None else (steps, channels)
        self.beta = nn.Parameter(torch.zeros(shape))
        if steps is not None:
            self.gamma = nn.Parameter(torch.ones(shape))
        self.steps = steps

    def forward(self, y: Tensor, rows: int, step: int | None) -> Tensor:
        """Normalise ``y (row, channel)`` by the moments of its first ``rows`` rows."""
        mean = y[:rows].mean(0)
        centred = y - mean
        variance = centred[:rows].square().mean(0)
        scale, shift = self.scale_and_shift(variance, step)
        return centred * scale + shift

    def scale_and_shift(self, variance: Tensor, step: int | None) -> tuple[Tensor, Tensor]:
        """``gamma / sqrt(variance + 1e-3)`` and ``beta`` of an inner step, ``(channel,)`` each.

        Raises:
            InputError: the norm is per step and the batch carries no step.
        """
        deviation = torch.rsqrt(variance + EPSILON)
        if self.steps is None:
            return deviation, self.beta
        if step is None:
            raise InputError("per-step batch norm needs to know the inner step: set Episode.step")
        row = min(step, self.steps - 1)
        return self.gamma[row] * deviation, self.beta[row]


def adapts(name: str) -> bool:
    """Whether a parameter moves in the inner loop: batch norm's scales and shifts are shared."""
    return name.rpartition(".")[2] not in ("beta", "gamma")
