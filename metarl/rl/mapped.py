"""A policy mapped over tasks: its parameters looked at, and called task by task if wanted."""

from collections.abc import Callable

import torch
from torch import Tensor

from metarl.errors import InputError, NonFiniteError
from metarl.params import Params
from metarl.rl.distributions import Distribution

Mapped = Callable[[Params, Tensor], Distribution]
"""``(parameters (task, ...), (task, row, observation)) -> distribution (task, row, action)``."""


def one_by_one(apply: Mapped) -> Mapped:
    """The mapped policy, called once for each task: outputs do not depend on how many there are."""

    def run(params: Params, x: Tensor) -> Distribution:
        parts = [
            apply({name: p[i : i + 1] for name, p in params.items()}, x[i : i + 1])
            for i in range(len(x))
        ]
        return type(parts[0])(*map(torch.cat, zip(*parts, strict=True)))

    return run


def check_params(params: Params, tasks: int) -> None:
    """Refuse parameters that are not finite, or not of so many tasks."""
    for name, p in params.items():
        if len(p) != tasks:
            raise InputError(
                f"parameter {name} is for {len(p)} tasks, but set_tasks was given {tasks}"
            )
        if not torch.isfinite(p.sum()):
            finite = p.reshape(len(p), -1).isfinite().all(1)
            if not finite.all():
                task = int((~finite).nonzero()[0])
                raise NonFiniteError(
                    f"parameter {name} of task {task} is not finite before sampling",
                    place=f"parameter {name}",
                    task=task,
                )
