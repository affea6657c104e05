"""Tasks small enough to know the answers of, and the measure that answers are compared by."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.loss import Loss
from metarl.nets import MLP
from metarl.params import Params, from_module
from metarl.streams import stream, torch_stream
from metarl.supervised.losses import mean_squared_error
from metarl.supervised.sinusoid import Regression, sample_points, sample_tasks

F64 = torch.float64


def flat(tensors: Params | Iterable[Tensor]) -> Tensor:
    parts = tensors.values() if isinstance(tensors, dict) else tensors
    return torch.cat([x.detach().reshape(-1) for x in parts])


def rel(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b|, NaN where either is not finite."""
    a, b = a.detach(), b.detach()
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def slope(loss: Any, params: Params) -> Tensor:
    """Gradient of a loss (or of the first field of one) in one vector."""
    scalar = loss if isinstance(loss, Tensor) else loss[0]
    return flat(torch.autograd.grad(scalar, list(params.values())))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Quadratic(NamedTuple):
    A: Tensor  # (task, d, d), symmetric positive definite
    a: Tensor  # (task, d)


def quadratics(tasks: int, d: int, *, seed: int) -> Quadratic:
    root = draw(tasks, d, d, seed=seed) / d**0.5
    return Quadratic(root @ root.mT + 0.5 * torch.eye(d, dtype=F64), draw(tasks, d, seed=seed + 1))


def quadratic_loss(params: Params, batch: Quadratic) -> Tensor:
    r = params["x"] - batch.a
    return 0.5 * r @ batch.A @ r


class Sinusoids(NamedTuple):
    params: Params
    loss: Loss
    supports: tuple[Regression, ...]  # the same set for each of three steps
    query: Regression


def sinusoids(
    *, tasks: int = 4, width: int = 40, activation: Any = "tanh", steps: int = 3
) -> Sinusoids:
    net = MLP((1, width, width, 1), activation=activation, generator=torch_stream(0, "weights"))
    params, apply = from_module(net, dtype=F64)
    drawn = sample_tasks(tasks, stream(0, "tasks"))
    support, query = (sample_points(drawn, 5, stream(0, "points", i), dtype=F64) for i in range(2))
    return Sinusoids(params, mean_squared_error(apply), (support,) * steps, query)


def task(data: Any, i: int) -> Any:
    """Task ``i`` of a batch."""
    return type(data)(*(x[i] if isinstance(x, Tensor) else x for x in data))


def rows(data: Any, index: Any) -> Any:
    """Some tasks of a batch, still with their leading dimension."""
    return type(data)(*(x[index] if isinstance(x, Tensor) else x for x in data))


def directional(f: Callable[[Params], Tensor], params: Params, directions: Tensor) -> Tensor:
    """Central differences of ``f`` along each row of ``directions``, h = 1e-5."""
    h, out = 1e-5, []
    sizes = [p.numel() for p in params.values()]
    for v in directions:
        parts = dict(zip(params, torch.split(v, sizes), strict=True))
        ends = [
            f({n: p.detach() + s * h * parts[n].view_as(p) for n, p in params.items()})
            for s in (1, -1)
        ]
        out.append((ends[0] - ends[1]) / (2 * h))
    return torch.stack(out).detach()
