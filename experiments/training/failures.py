"""What is not finite in a supervised meta-iteration, and in which task."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from metarl import Params
from metarl.errors import NonFiniteError
from metarl.finite import first_not_finite


def non_finite(
    params: Params,
    data: Mapping[str, Tensor],
    path: Sequence[Params],
    losses: Tensor,
    gradient: Callable[[int], Iterable[Tensor]],
) -> NonFiniteError:
    """The error that names the first cause: parameters, data, inner gradient, loss, gradient.

    Args:
        params: theta.
        data: the meta-batch by name, each ``(task, ...)``; kept for a post-mortem with theta.
        path: theta_1 .. theta_K of all tasks, each name -> ``(task, ...)``.
        losses: after adaptation, ``(task,)``.
        gradient: of the loss after adaptation of one task.
    """
    place, task = _cause(params, data, path, losses, gradient)
    where = "" if task is None else f" in task {task} of the meta-batch"
    cure = "the data are at fault" if place in data else "lower --inner-lr or --lr"
    return NonFiniteError(
        f"the {place} is not finite{where}; {cure}",
        place=place,
        task=task,
        batch={**data, **params},
    )


def _cause(
    params: Params,
    data: Mapping[str, Tensor],
    path: Sequence[Params],
    losses: Tensor,
    gradient: Callable[[int], Iterable[Tensor]],
) -> tuple[str, int | None]:
    for name, p in params.items():
        if not bool(p.isfinite().all()):
            return f"parameter {name}", None
    stages = [
        *data.items(),
        *((f"inner gradient of {name}", p) for theta in path for name, p in theta.items()),
        ("outer loss", losses),
    ]
    for place, values in stages:
        if (task := first_not_finite(values)) is not None:
            return place, task
    for task in range(len(losses)):
        if not bool(torch.nn.utils.get_total_norm(gradient(task)).isfinite()):
            return "outer gradient", task
    return "outer gradient", None  # of no task alone: the sum overflows
