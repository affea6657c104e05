"""One's own model, loss and inner loop: robust regression whose last layer adapts by Adam.

python own_model.py --iterations 2000
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import tyro
from torch import Tensor, nn

import metarl


@dataclass(frozen=True)
class Args:
    """How long to train."""

    iterations: int = 2000  # meta-updates
    meta_batch: int = 25  # tasks in each
    points: int = 10  # of a task to adapt on, and as many to measure on
    steps: int = 3  # gradient steps
    seed: int = 0  # of everything


class Model(nn.Module):
    """Any module: layers that carry over from task to task, and a head that each task adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.LayerNorm(64), nn.Tanh()
        )
        self.head = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Points(NamedTuple):
    """A batch is a NamedTuple of tensors; in a meta-batch each has a leading task dimension."""

    x: Tensor  # (point, 1)
    y: Tensor  # (point, 1)


class Errors(NamedTuple):
    """What a loss returns: the loss itself first, then whatever else is worth a number."""

    squared: Tensor
    absolute: Tensor


def meta_batch() -> tuple[Points, Points]:
    """Lines bent by a sine: points to adapt on, a tenth of them far off, and others to measure."""
    slope, amplitude = torch.randn(2, args.meta_batch, 1, 1, generator=generator)
    x = 4 * torch.rand(args.meta_batch, 2 * args.points, 1, generator=generator) - 2
    y = slope * x + amplitude * torch.sin(3 * x)
    here, there = x.split(args.points, dim=1), y.split(args.points, dim=1)
    far = (torch.rand(there[0].shape, generator=generator) < 0.1) * 10.0
    return Points(here[0], there[0] + far), Points(here[1], there[1])


args = tyro.cli(Args)
torch.manual_seed(args.seed)
generator = torch.Generator().manual_seed(args.seed)
params, apply = metarl.from_module(Model())


def robust(params: metarl.Params, batch: Points) -> Tensor:
    """What a task descends. A loss is of ONE task; metarl maps it over all of them."""
    return nn.functional.huber_loss(apply(params, batch.x), batch.y)


def errors(params: metarl.Params, batch: Points) -> Errors:
    """What is measured after adaptation."""
    error = apply(params, batch.x) - batch.y
    return Errors(error.square().mean(), error.abs().mean())


def head(name: str) -> bool:
    """Which parameters a task adapts."""
    return name.startswith("head.")


inner = metarl.InnerLoop(lr=0.05, adapted=head, optimizer="adam", clip=10.0)
# The step size of each tensor of the head, of each step, is learned with the rest.
moving = {name: p for name, p in params.items() if head(name)}
theta = params | metarl.learned_rates(moving, 0.05, per="tensor", steps=args.steps)
optimizer = torch.optim.Adam(theta.values(), lr=1e-3)

for iteration in range(args.iterations):
    support, query = meta_batch()
    after = metarl.meta_loss(robust, errors, theta, [support] * args.steps, query, inner)
    optimizer.zero_grad()
    after.squared.backward()  # the first field carries the gradient
    optimizer.step()
    if (iteration + 1) % 500 == 0 or iteration + 1 == args.iterations:
        print(f"{iteration + 1:5d}  squared {after.squared:.3f}  absolute {after.absolute:.3f}")

support, query = meta_batch()
curve = metarl.adaptation_curve(robust, errors, theta, [support] * args.steps, query, inner)
print("absolute error after each step:", *(f"{x:.3f}" for x in curve.absolute.mean(1)))

# One task alone, and its parameters back in a plain module.
one = Points(support.x[0], support.y[0])
adapted = metarl.adapt(robust, theta, [one] * args.steps, inner)
model = Model()
model.load_state_dict(adapted)
