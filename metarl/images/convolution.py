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
    y: Tensor = _patches(x, *grid) @ weight
    return y


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
    return _patches(rows, count, height, width), output_grid((count, height, width))


@torch.library.custom_op("metarl::patches_stride2", mutates_args=())
def _patches(x: Tensor, images: int, height: int, width: int) -> Tensor:
    """``P(x)``: ``(image * height * width, C) -> (image * height' * width', 9 C)``."""
    gather, _ = _plan((images, height, width), x.device)
    return _sum_rows(x, gather).view(-1, 9 * x.shape[1])


@torch.library.custom_op("metarl::unpatches_stride2", mutates_args=())
def _unpatches(p: Tensor, images: int, height: int, width: int) -> Tensor:
    """The transpose of `_patches`."""
    _, scatter = _plan((images, height, width), p.device)
    return _sum_rows(p.reshape(-1, p.shape[1] // 9), scatter)


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


# What tracing and differentiating need to know of the two.


def _patches_shape(x: Tensor, images: int, height: int, width: int) -> Tensor:
    _, rows, columns = output_grid((images, height, width))
    return x.new_empty(images * rows * columns, 9 * x.shape[1])


def _unpatches_shape(p: Tensor, images: int, height: int, width: int) -> Tensor:
    return p.new_empty(images * height * width, p.shape[1] // 9)


def _remember_grid(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.grid = inputs[1:]


def _patches_backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
    return _unpatches(g, *ctx.grid), None, None, None


def _unpatches_backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
    return _patches(g, *ctx.grid), None, None, None


def _patches_of_tasks(
    info: Any, dims: tuple[int | None, ...], x: Tensor, images: int, height: int, width: int
) -> tuple[Tensor, int]:
    rows = x.movedim(dims[0] or 0, 0).flatten(0, 1)
    out = _patches(rows, info.batch_size * images, height, width)
    return out.view(info.batch_size, -1, out.shape[1]), 0


def _unpatches_of_tasks(
    info: Any, dims: tuple[int | None, ...], p: Tensor, images: int, height: int, width: int
) -> tuple[Tensor, int]:
    rows = p.movedim(dims[0] or 0, 0).flatten(0, 1)
    out = _unpatches(rows, info.batch_size * images, height, width)
    return out.view(info.batch_size, -1, out.shape[1]), 0


_patches.register_fake(_patches_shape)
_patches.register_autograd(_patches_backward, setup_context=_remember_grid)
_patches.register_vmap(_patches_of_tasks)
_unpatches.register_fake(_unpatches_shape)
_unpatches.register_autograd(_unpatches_backward, setup_context=_remember_grid)
_unpatches.register_vmap(_unpatches_of_tasks)
