"""Modules of every kind, one input and output shape, and the data of three tasks for them."""

from collections.abc import Callable
from typing import Any

import torch
from oracles import F64, draw
from torch import Tensor, nn
from torch.nn import functional

X, Y = draw(3, 6, 3, 4, seed=0), draw(3, 6, 1, seed=1)  # (task, point, 3, 4), (task, point, 1)


class Net(nn.Module):
    """``x (point, 3, 4) -> (point, 1)`` through a core, with a buffer and a frozen parameter."""

    def __init__(self, core: nn.Module, *, image: bool = False) -> None:
        super().__init__()
        self.core, self.image, self.head = core, image, nn.LazyLinear(1)
        self.register_buffer("scale", torch.tensor(0.5))
        self.frozen = nn.Parameter(torch.tensor(0.7), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.core(x[:, None] if self.image else x)
        h = h[0] if isinstance(h, tuple) else h
        out: Tensor = self.head(h.flatten(1)) * self.scale + self.frozen
        return out


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inside(x, x, x, need_weights=False)[0]
        return out


class Heads(nn.Module):
    """Attention by torch's function, of two heads of two features, ``(point, time, feature)``."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.qkv, self.options = nn.Linear(4, 12), options

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        if self.options.get("enable_gqa"):
            k, v = k[:, :1], v[:, :1]
        out = functional.scaled_dot_product_attention(q, k, v, **self.options)
        return out.transpose(-2, -3).flatten(-2)


class Encoder(nn.Module):
    """A transformer of one layer, ``(point, time, feature)``."""

    def __init__(self, dropout: float, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout, batch_first=True)
        self.inside, self.options = nn.TransformerEncoder(layer, 1), options

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inside(x, **self.options)
        return out


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight, self.unused = self.one.weight, nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(torch.tanh(self.one(x)))
        return out


Norm = Callable[[Tensor, Tensor, Tensor], Tensor]


def last_channel(norm: Norm) -> Norm:
    return lambda x, *affine: norm(x.movedim(1, -1), *affine).movedim(-1, 1)


# Of x (point, channel, height, width), weight and bias (channel,): functions, where modules hide.
NORMS: dict[str, Norm] = {
    "layer norm, called": last_channel(lambda x, w, b: functional.layer_norm(x, (3,), w, b)),
    "batch norm, called": lambda x, w, b: functional.batch_norm(x, None, None, w, b, training=True),
    "instance norm, called": lambda x, w, b: functional.instance_norm(x, weight=w, bias=b),
    "layer norm, torch's": last_channel(lambda x, w, b: torch.layer_norm(x, (3,), w, b)),
    "batch norm, torch's": lambda x, w, b: torch.batch_norm(
        x, w, b, None, None, True, 0.1, 1e-5, False
    ),
    "instance norm, torch's": lambda x, w, b: torch.instance_norm(
        x, w, b, None, None, True, 0.1, 1e-5, False
    ),
}


class CalledNorm(nn.Module):
    """A norm that is no module."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm, self.conv = norm, nn.Conv2d(1, 3, 2)
        self.weight, self.bias = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x), self.weight, self.bias)


class WideNorm(nn.LayerNorm):
    """The usual way to normalise in another type."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(F64)).to(x.dtype)


class WeightNorm(nn.Module):
    """What ``parametrizations.weight_norm(nn.Linear(4, 4))`` computes, under its names."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self.bias = like.bias
        self.parametrizations = like.parametrizations

    def forward(self, x: Tensor) -> Tensor:
        g, v = (getattr(self.parametrizations.weight, f"original{i}") for i in (0, 1))
        return x @ (g * v / v.square().sum(1, keepdim=True).sqrt()).mT + self.bias


class Cell(nn.Module):
    def __init__(self, kind: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.cell = kind(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        h: Tensor = state[0] if isinstance(state, tuple) else state
        return h


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.layer(nn.utils.rnn.pack_sequence([*x]))[1][0][0]
        return h


def built(core: Callable[[], nn.Module], *, image: bool = False, train: bool = True) -> nn.Module:
    torch.manual_seed(0)
    net = Net(core(), image=image).to(F64)
    net(X[0])
    for p in net.core.parameters():  # norms start at weight one and bias zero, which hides much
        p.data += 0.1 * torch.randn_like(p)
    return net.train(train)


def called(norm: Norm) -> nn.Module:
    return built(lambda: CalledNorm(norm), image=True)
