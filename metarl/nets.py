"""Small networks as plain modules; weights come from a generator that is passed in."""

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from .checks import check_choice

Activation = Literal["relu", "tanh"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}


class MLP(nn.Module):
    """Multi-layer perceptron, linear at the end.

    ``x (..., sizes[0]) -> (..., sizes[-1])``.

    Args:
        sizes: widths from input to output, such as ``(1, 40, 40, 1)``.
        activation: between the layers.
        init: ``"xavier"`` (uniform Glorot) or a number, the standard deviation of a normal
            truncated at two standard deviations; biases start at zero either way.
        generator: draws the weights; None uses torch's global generator.

    Raises:
        InputError: no such activation.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: Activation = "relu",
        init: float | Literal["xavier"] = "xavier",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_choice("activation", activation, tuple(_ACTIVATIONS))
        self.activation = _ACTIVATIONS[activation]
        self.layers = nn.ModuleList(
            blank_linear(fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(sizes)
        )
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.bias)
            if init == "xavier":
                nn.init.xavier_uniform_(layer.weight, generator=generator)
            else:
                nn.init.trunc_normal_(
                    layer.weight, std=init, a=-2 * init, b=2 * init, generator=generator
                )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers to ``x (..., sizes[0])``."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        out: Tensor = last(x)
        return out


def blank_linear(fan_in: int, fan_out: int) -> nn.Linear:
    """A linear layer to be filled in: torch's own draws from its global generator first."""
    device = torch.get_default_device()
    layer = skip_init(nn.Linear, fan_in, fan_out, device=device)  # type: ignore[no-untyped-call]
    assert isinstance(layer, nn.Linear)
    return layer


@torch.no_grad()
def scale_layer(layer: nn.Module, factor: float) -> None:
    """Multiply the weights of a linear layer, in place.

    With a factor near 0 a net's last layer favours no output before anything was learned.
    """
    assert isinstance(layer, nn.Linear)
    layer.weight.mul_(factor)
