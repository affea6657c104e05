"""The networks of Finn, Abbeel, Levine 2017, section 5.2, with batch norm without running moments.

Every layer is normalised by the moments of one batch, ``(y - mean) / sqrt(var + 1e-3)``, never by
running statistics. Whose moments is decided by the data, so one set of parameters can be evaluated
either way:

- *transductive* (the paper's): the moments of the images at hand, support and query apart;
- *support*: the query is normalised by the support images' moments of the same layer, computed by
  the same parameters, so no query item influences another. The support images travel with the
  query as ``reference``.

*per_step* (MAML++, Antoniou, Edwards, Storkey 2019): a scale and a shift for each inner step,
chosen by the integer ``step`` of the batch; the moments are as above.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from metarl.nets import blank_linear

from .batch_norm import BatchNorm
from .convolution import conv3x3_stride2, output_grid, patches_stride2

LAYERS = 4


class _Net(nn.Module):
    """What the nets share: the reference images go through the layers in front of the others."""

    def features(self, images: Tensor, references: int, step: int | None) -> Tensor:
        """``(image, ...) -> (image, feature)``, normalised by the first ``references`` images."""
        raise NotImplementedError

    def __init__(self, features: int, ways: int) -> None:
        super().__init__()
        self.head = blank_linear(features, ways)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, images: Tensor, reference: Tensor | None = None, step: int | None = None
    ) -> Tensor:
        """Logits ``(image, way)``.

        Args:
            images: ``(image, channel, height, width)``.
            reference: support images whose moments normalise; None: the moments of ``images``.
            step: row of per-step batch norm, see `metarl.images.episodes.Episode`.
        """
        if reference is None:
            hidden = self.features(images, len(images), step)
        else:
            hidden = self.features(torch.cat([reference, images]), len(reference), step)
            hidden = hidden[len(reference) :]
        logits: Tensor = self.head(hidden)
        return logits


class StridedConvNet(_Net):
    """Omniglot's: 4 x (3x3 convolution of stride 2, batch norm, ReLU), mean over the map, linear.

    ``(image, channel, height, width) -> (image, way)``. The convolution weights are
    ``(9 * in, out)``, see `conv3x3_stride2`, Xavier uniform; the linear layer starts at N(0, 1).

    Args:
        ways: number of classes.
        channels: of the input.
        filters: of each convolution.
        steps: of batch norm, see `BatchNorm`.
        generator: draws the weights; None uses torch's global generator.
    """

    def __init__(
        self,
        ways: int,
        *,
        channels: int = 1,
        filters: int = 64,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(filters, ways)
        self.convolutions = _kernels(lambda i, o: (9 * i, o), channels, filters, generator)
        self.norms = nn.ModuleList(BatchNorm(filters, steps=steps) for _ in range(LAYERS))
        nn.init.normal_(self.head.weight, generator=generator)

    def features(self, images: Tensor, references: int, step: int | None) -> Tensor:
        """``(image, channel, height, width) -> (image, filter)``."""
        count = len(images)
        x, grid = patches_stride2(images)
        x = torch.relu(self._first(x, len(x) // count * references, step))
        for weight, norm in list(zip(self.convolutions, self.norms, strict=True))[1:]:
            y = conv3x3_stride2(x, weight, grid)
            grid = output_grid(grid)
            x = torch.relu(norm(y, len(y) // count * references, step))
        return x.view(count, -1, x.shape[1]).mean(1)

    def _first(self, patches: Tensor, rows: int, step: int | None) -> Tensor:
        """First convolution and its batch norm in one product.

        The mean and variance of ``p w`` over patches ``p`` are ``mean(p) w`` and ``w' Cov(p) w``:
        nine numbers a channel instead of passes over the largest map of the net.
        """
        weight, norm = self.convolutions[0], self.norms[0]
        assert isinstance(norm, BatchNorm)
        centred = patches - patches[:rows].mean(0)
        covariance = centred[:rows].mT @ centred[:rows] / rows
        variance = (weight * (covariance @ weight)).sum(0)
        scale, shift = norm.scale_and_shift(variance, step)
        y: Tensor = centred @ (weight * scale) + shift
        return y


class PooledConvNet(_Net):
    """mini-ImageNet's: 4 x (3x3 convolution, batch norm, ReLU, max-pool 2), linear.

    ``(image, channel, size, size) -> (image, way)``. Xavier uniform throughout.

    Args:
        ways: number of classes.
        channels: of the input.
        size: height and width of the input; 84 gives 800 features with 32 filters.
        filters: of each convolution.
        steps: of batch norm, see `BatchNorm`.
        generator: draws the weights; None uses torch's global generator.
    """

    def __init__(
        self,
        ways: int,
        *,
        channels: int = 3,
        size: int = 84,
        filters: int = 32,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(filters * (size // 16) ** 2, ways)
        self.convolutions = _kernels(lambda i, o: (o, i, 3, 3), channels, filters, generator)
        self.norms = nn.ModuleList(BatchNorm(filters, steps=steps) for _ in range(LAYERS))
        nn.init.xavier_uniform_(self.head.weight, generator=generator)

    def features(self, images: Tensor, references: int, step: int | None) -> Tensor:
        """``(image, channel, size, size) -> (image, feature)``."""
        x = images
        for weight, norm in zip(self.convolutions, self.norms, strict=True):
            y = functional.conv2d(x, weight, padding=1).movedim(1, -1)
            rows = y.shape[1] * y.shape[2] * references
            y = norm(y.flatten(0, 2), rows, step).view(y.shape).movedim(-1, 1)
            # ReLU and maximum commute; the smaller map first.
            x = torch.relu(functional.max_pool2d(y, 2))
        return x.flatten(1)


class DenseNet(_Net):
    """The net without convolutions: 4 x (linear, batch norm, ReLU), linear.

    ``(image, channel, height, width) -> (image, way)``. Weights from a normal of standard
    deviation 0.01 truncated at two, as the authors' code has them: batch norm divides the scale
    out of the layer, but the smaller the weights the farther a gradient step turns them.

    Args:
        ways: number of classes.
        inputs: numbers in an image.
        widths: of the hidden layers.
        steps: of batch norm, see `BatchNorm`.
        generator: draws the weights; None uses torch's global generator.
    """

    def __init__(
        self,
        ways: int,
        *,
        inputs: int = 784,
        widths: tuple[int, ...] = (256, 128, 64, 64),
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(widths[-1], ways)
        sizes = (inputs, *widths)
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(i, o)) for i, o in pairwise(sizes))
        self.norms = nn.ModuleList(BatchNorm(width, steps=steps) for width in widths)
        for weight in (*self.weights, self.head.weight):
            nn.init.trunc_normal_(weight, std=0.01, a=-0.02, b=0.02, generator=generator)

    def features(self, images: Tensor, references: int, step: int | None) -> Tensor:
        """``(image, channel, height, width) -> (image, feature)``."""
        x = images.flatten(1)
        for weight, norm in zip(self.weights, self.norms, strict=True):
            x = torch.relu(norm(x @ weight, references, step))
        return x


def _kernels(
    shape: Callable[[int, int], tuple[int, ...]],
    channels: int,
    filters: int,
    generator: torch.Generator | None,
) -> nn.ParameterList:
    """Weights of the 3x3 convolutions, of a shape by channels in and out, Xavier uniform."""
    kernels = nn.ParameterList()
    for i, o in pairwise((channels, *[filters] * LAYERS)):
        bound = (6 / (9 * i + 9 * o)) ** 0.5
        kernels.append(torch.empty(shape(i, o)).uniform_(-bound, bound, generator=generator))
    return kernels
