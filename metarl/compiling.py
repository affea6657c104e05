"""Compiling functions of a chunk of tasks, derivatives included."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


@functools.lru_cache(maxsize=64)
def compile_chunks(
    run: Callable[[Any, Any], Any],
) -> tuple[Callable[[Any, Any], Any], set[tuple[torch.Size, ...]]]:
    """The chunk function compiled, and the shapes it has been called with, to be kept up."""
    programs: dict[Any, tuple[Callable[..., Any], TreeSpec]] = {}

    def compiled(shared: Any, data: Any) -> Any:
        leaves, spec = tree_flatten((shared, data))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        rest = tuple(_TENSOR if isinstance(x, Tensor) else x for x in leaves)
        kinds = tuple((x.shape, x.dtype, x.device) for x in tensors)
        key = (str(spec), rest, kinds, torch.get_num_threads())
        if key not in programs:
            programs[key] = _traced(run, tensors, rest, spec)
        program, out_spec = programs[key]
        return tree_unflatten(program(*tensors), out_spec)

    return compiled, set()


_TENSOR = object()


def _traced(
    run: Callable[[Any, Any], Any], tensors: list[Tensor], rest: tuple[Any, ...], spec: TreeSpec
) -> tuple[Callable[..., Any], TreeSpec]:
    """Record the tensor operations of one call, derivatives and all, and compile the record.

    The compiler's own tracer cannot differentiate an ``autograd.Function`` inside ``torch.func``
    transforms; a record of what really ran has no such limits.
    """
    out_spec: list[TreeSpec] = []

    def flat(*tensors: Tensor) -> list[Any]:
        given = iter(tensors)
        leaves = [next(given) if x is _TENSOR else x for x in rest]
        out, found = tree_flatten(run(*tree_unflatten(leaves, spec)))
        out_spec.append(found)
        return out

    graph = make_fx(flat)(*tensors)
    return torch.compile(graph, fullgraph=True, dynamic=False), out_spec[0]
