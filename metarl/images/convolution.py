"""The strided convolution of the Omniglot net, as a gather and one matrix product.

A convolution whose weights differ between tasks becomes a grouped convolution under ``vmap``, which
is slow on CPUs, most of all in second derivatives. Here it is ``P(x) w``: a linear gather ``P`` of
patches and a matrix product, batched when the weights are per task. ``P`` and its transpose are
sums of rows chosen by index, one pass over memory each, and are each other's derivative.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Grid = tuple[int, int, int]
"""Images, height and width of a map whose rows are its pixels, ``(image * height * width, C)``."""


class _Rows(NamedTuple):
    """Output row ``i`` is the sum of input rows ``source[offsets[i] : offsets[i + 1]]``."""

    source: Tensor
    offsets: Tensor


def output_grid(grid: Grid) -> Grid:
    """Grid after a 3x3 convolution of stride 2 and padding 1."""
    images, height, width = grid
    return images, (height + 1) // 2, (width + 1) // 2


def conv3x3_stride2(x: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    """3x3 convolution of stride 2 and padding 1, differentiable any number of times.

    Equals ``torch.nn.functional.conv2d(x, w, stride=2, padding=1)``, channels last.

    Args:
        x: ``(image * height * width, in)``.
        weight: ``(9 * in, out)``, rows ordered by kernel row, kernel column, channel.
        grid: images, height, width.

    Returns:
        ``(image * height' * width', out)`` on `output_grid`.
    """
    return _apply(_Patches, x, grid) @ weight


def patches_stride2(images: Tensor) -> tuple[Tensor, Grid]:
    """Patches that a 3x3 convolution of stride 2 and padding 1 multiplies its weights with.

    Args:
        images: ``(image, channel, height, width)``.

    Returns:
        ``(image * height' * width', 9 * channel)``, columns in the order of `conv3x3_stride2`'s
        weights, and the grid of the output.
    """
    count, channels, height, width = images.shape
    rows = images.movedim(1, -1).reshape(-1, channels)
    grid = (count, height, width)
    return _apply(_Patches, rows, grid), output_grid(grid)


class _Patches(torch.autograd.Function):
    """``P(x)``: ``(image * height * width, C) -> (image * height' * width', 9 C)``."""

    @staticmethod
    def forward(x: Tensor, grid: Grid) -> Tensor:
        gather, _ = _plan(grid, x.device)
        return _sum_rows(x, gather).view(-1, 9 * x.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Grid], output: Tensor) -> None:
        ctx.grid = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return _apply(_Unpatches, g, ctx.grid), None

    @staticmethod
    def vmap(info: Any, dims: tuple[int, None], x: Tensor, grid: Grid) -> tuple[Tensor, int]:
        return _of_tasks(_Patches, x.movedim(dims[0], 0), grid)


class _Unpatches(torch.autograd.Function):
    """The transpose of `_Patches`."""

    @staticmethod
    def forward(p: Tensor, grid: Grid) -> Tensor:
        _, scatter = _plan(grid, p.device)
        return _sum_rows(p.reshape(-1, p.shape[1] // 9), scatter)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Grid], output: Tensor) -> None:
        ctx.grid = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return _apply(_Patches, g, ctx.grid), None

    @staticmethod
    def vmap(info: Any, dims: tuple[int, None], p: Tensor, grid: Grid) -> tuple[Tensor, int]:
        return _of_tasks(_Unpatches, p.movedim(dims[0], 0), grid)


def _apply(function: type[torch.autograd.Function], rows: Tensor, grid: Grid) -> Tensor:
    out: Tensor = function.apply(rows, grid)  # type: ignore[no-untyped-call]
    return out


def _of_tasks(
    function: type[torch.autograd.Function], rows: Tensor, grid: Grid
) -> tuple[Tensor, int]:
    """Rows ``(task, row, C)``: the tasks' images are just more images."""
    images, height, width = grid
    out = _apply(function, rows.flatten(0, 1), (len(rows) * images, height, width))
    return out.view(len(rows), -1, out.shape[1]), 0


def _sum_rows(x: Tensor, rows: _Rows) -> Tensor:
    return functional.embedding_bag(rows.source, x.contiguous(), rows.offsets, mode="sum")


@functools.lru_cache(maxsize=64)
def _plan(grid: Grid, device: torch.device) -> tuple[_Rows, _Rows]:
    """Index of the gather of patches on a grid, and of its transpose."""
    images, height, width = grid
    _, rows, columns = output_grid(grid)
    pixel = np.arange(images * height * width).reshape(images, height, width)
    padded = np.pad(pixel, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    taps = [
        padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        for i in range(3)
        for j in range(3)
    ]
    source = np.stack(taps, -1).ravel()
    inside = source >= 0
    index = source[inside]
    patch = np.flatnonzero(inside)[np.argsort(index, kind="stable")]
    used = np.bincount(index, minlength=pixel.size)
    return _rows(index, inside, device), _rows(patch, used, device)


def _rows(index: np.ndarray, counts: np.ndarray, device: torch.device) -> _Rows:
    offsets = np.cumsum(counts) - counts
    return _Rows(torch.from_numpy(index).to(device), torch.from_numpy(offsets).to(device))
