"""From sums over chunks of tasks to means over all tasks of all ranks."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from .chunks import ChunkFunction, run_chunks
from .kept import kept_if
from .mapping import Mapping
from .task_dimension import count_tasks

Reduce = Callable[[Tensor], Tensor]
"""Sums one flat tensor over ranks."""


class InOrder(NamedTuple):
    """In the place of a `Reduce`: sums in task order, the same to the bit on any number of ranks.

    That holds where every task is a chunk of its own, as the mapping ``threads`` makes it. Slower:
    every task's gradient travels.

    Attributes:
        gather: ``(own chunks, number) -> (all ranks' chunks, number)``, in task order.
    """

    gather: Callable[[Tensor], Tensor]


Reducer = Reduce | InOrder
"""How sums over ranks are taken."""


def sum_in_order(outputs: Iterable[Any]) -> Any:
    """Sum of equally structured outputs, from the first to the last.

    Added up as they come: an output that is kept would lie in memory that its chunk's graph has
    just freed, and the next graph would no longer fit there.
    """
    return functools.reduce(functools.partial(tree_map, torch.add), outputs)


def sum_over_ranks(x: Tensor, reduce: Reducer | None) -> Tensor:
    """Sum of one flat tensor of each rank."""
    if reduce is None:
        return x
    if isinstance(reduce, InOrder):
        total: Tensor = sum_in_order(reduce.gather(x[None]))
        return total
    return reduce(x)


def run_mean(
    run: ChunkFunction,
    shared: Any,
    data: Any,
    mapping: Mapping,
    reduce: Reducer | None,
) -> Any:
    """Mean over tasks, other ranks' too, of a chunk function that returns sums; without a graph.

    Args:
        run: the chunk function, the same object each time.
        shared: its first argument.
        data: tensors with a leading task dimension.
        mapping: a definite mapping.
        reduce: sums over ranks; None where there are no others.
    """
    with torch.no_grad():
        if reduce is None and mapping.chunk_size(count_tasks(data)) is None:
            # The division goes into the program: a small one feels each operation beside it.
            divided = kept_if(mapping.compile, _divided, run)
            return run_chunks(divided, shared, data, mapping)[0]
        return run_chunks(
            run,
            shared,
            data,
            mapping,
            gather=lambda sums: mean_of_chunks(sums, data, reduce),
        )


def _divided(run: ChunkFunction) -> ChunkFunction:
    """A chunk function's sums divided by the number of the chunk's tasks."""

    def mean(shared: Any, data: Any) -> Any:
        tasks = count_tasks(data)
        return tree_map(lambda x: x / tasks, run(shared, data))

    return mean


def mean_of_chunks(sums: Iterable[Any], data: Any, reduce: Reducer | None) -> Any:
    """Mean over tasks from the chunks' sums; over ranks, sums and count travel in one tensor.

    Args:
        sums: one output a chunk, each summed over its tasks; added up as they come.
        data: what was mapped, for the number of tasks.
        reduce: sums over ranks; None where there are no others.
    """
    tasks = count_tasks(data)
    if isinstance(reduce, InOrder):
        each = list(sums)
        rows = [_flat(x, tasks / len(each)) for x in each]
        total = each[0]
        flat = sum_in_order(reduce.gather(torch.stack(rows)))
    else:
        total = sum_in_order(sums)
        if reduce is None:
            return tree_map(lambda x: x / tasks, total)
        flat = sum_over_ranks(_flat(total, tasks), reduce)
    leaves, spec = tree_flatten(total)
    parts = torch.split(flat[1:] / flat[0], [x.numel() for x in leaves])
    # The vector is of the widest type among them; a sum of whole numbers has a broken mean.
    kinds = [x.dtype if x.is_floating_point() else flat.dtype for x in leaves]
    shaped = [part.view_as(x).to(kind) for part, x, kind in zip(parts, leaves, kinds, strict=True)]
    return tree_unflatten(shaped, spec)


def _flat(sums: Any, tasks: float) -> Tensor:
    """The number of tasks and the sums in one vector, of a type that counts beyond 256 tasks."""
    leaves = tree_leaves(sums)
    count = leaves[0].new_full(
        (1,), tasks, dtype=torch.promote_types(leaves[0].dtype, torch.float32)
    )
    return torch.cat([count, *(x.reshape(-1) for x in leaves)])
