"""A function of one task applied to all tasks, chunk by chunk, as a mapping says.

A *chunk function* takes what all tasks share and the data of some tasks; a mapping says how many
tasks make a chunk and who runs the chunks. Sums are taken in task order, so that the result
depends on the mapping only as far as floating-point addition does.

With ``+compile`` a chunk function is recorded at its first call with each set of shapes, and the
record is what runs from then on: losses must be pure, see `metarl.Loss`.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .compiling import Ready, compile_chunks
from .elementary import Elementary
from .mapping import Mapping
from .modules import ONE_TASK_AT_A_TIME
from .task_dimension import count_tasks
from .threads import map_on_threads, one_intra_op_thread

T = TypeVar("T")
R = TypeVar("R")
ChunkFunction = Callable[[Any, Any], Any]
"""``chunk_function(shared, data)``, data with a leading dimension of the chunk's tasks."""

_FIXED_SHAPES = (
    "all tasks go through a loss at once: use torch.where for if, and weights of 0 for a mask"
)


def each(fn: Callable[[Any, Any], Any]) -> ChunkFunction:
    """``fn(shared, one task's data)`` as a chunk function with outputs stacked over tasks."""

    def one(shared: Any, data: Any) -> Any:
        with Elementary():
            return fn(shared, data)

    def run(shared: Any, data: Any) -> Any:
        if count_tasks(data) == 1:
            # A plain chain, without the detours of vmap.
            out = one(shared, tree_map(lambda x: x[0] if isinstance(x, Tensor) else x, data))
            return tree_map(lambda x: x.unsqueeze(0), out)
        dims = tree_map(lambda x: 0 if isinstance(x, Tensor) else None, data)
        mapped = torch.func.vmap(
            functools.partial(one, shared), in_dims=(dims,), randomness="different"
        )
        try:
            return mapped(data)
        except RuntimeError as error:
            if "vmap" in str(error):
                error.add_note(f"{_FIXED_SHAPES}, or {ONE_TASK_AT_A_TIME}")
            raise

    return run


def run_chunks(
    run: ChunkFunction,
    shared: Any,
    data: Any,
    mapping: Mapping,
    *,
    compiler: Callable[..., tuple[ChunkFunction, Ready]] = compile_chunks,
    gather: Callable[[Iterable[Any]], Any] = list,
) -> Any:
    """Apply a chunk function to all tasks.

    Args:
        run: the chunk function; compiled when the mapping says so. Pass the same function object
            each time, or it is compiled each time.
        shared: first argument of every call.
        data: tensors with a leading task dimension, in any nesting of tuples and dicts.
        mapping: a definite mapping, see `resolve_mapping`.
        compiler: `compile_chunks`, or `compile_products` for outputs that are functions.
        gather: takes the outputs, one a chunk and in task order, as they come; see
            `metarl.reduction.sum_in_order`.

    Returns:
        What ``gather`` makes of them: their list.
    """
    tasks = count_tasks(data)
    size = mapping.chunk_size(tasks)
    ready: Ready = _always
    if mapping.compile:
        run, ready = compiler(run, threaded=mapping.kind == "threads")
    if size is None:
        return gather([run(shared, data)])
    chunks = [
        tree_map(lambda x, i=i: x[i : i + size] if isinstance(x, Tensor) else x, data)
        for i in range(0, tasks, size)
    ]
    # A chunk whose program has to be built runs alone, so that one thread only enters the compiler,
    # and it compiles for the one intra-op thread that workers have.
    alone = one_intra_op_thread if mapping.kind == "threads" else contextlib.nullcontext
    with alone():
        first = 0 if ready(shared, chunks[0]) else 1
        done = [run(shared, chunk) for chunk in chunks[:first]]
    return map_items(
        lambda chunk: run(shared, chunk),
        chunks[first:],
        mapping,
        gather=lambda rest: gather(itertools.chain(done, rest)),
    )


def _always(shared: Any, data: Any) -> bool:
    return True


def map_items(
    fn: Callable[[T], R],
    items: Sequence[T],
    mapping: Mapping,
    *,
    gather: Callable[[Iterable[R]], Any] = list,
) -> Any:
    """``gather(fn(item) for item in items)``, on worker threads if the mapping says so."""
    if mapping.kind == "threads":
        return map_on_threads(fn, items, gather)
    return gather(map(fn, items))
