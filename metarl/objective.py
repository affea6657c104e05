"""Objectives as three functions of theta: value, gradient and Fisher product, mean over tasks."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from .inner import first
from .mapping import ChunkFunction, count_tasks, each, resolve_mapping, run_chunks, sum_in_order
from .params import Params

Reduce = Callable[[Tensor], Tensor]
"""Sums one flat tensor over ranks."""


class Objective(NamedTuple):
    """What a meta-update sees of the tasks: means over all of them (and all ranks).

    Attributes:
        value: ``theta -> (loss, kl)``, without a graph; for line searches.
        gradient: ``theta -> (loss, kl, d loss / d theta)``.
        fisher: ``(theta, v) -> F v``, F being the Hessian of the mean KL at theta.
    """

    value: Callable[[Params], tuple[Tensor, Tensor]]
    gradient: Callable[[Params], tuple[Tensor, Tensor, Params]]
    fisher: Callable[[Params, Params], Params]


TaskFunction = Callable[[Params, Any], tuple[Tensor, Tensor]]
FisherFunction = Callable[[Params, Params, Any], Params]


def mean_over_tasks(
    fn: TaskFunction,
    data: Any,
    *,
    fisher: FisherFunction | None = None,
    mapping: str = "auto",
    reduce: Reduce | None = None,
) -> Objective:
    """Average ``fn(theta, one task's data) -> (loss, kl)`` over tasks.

    Only sums are kept, never the graphs of all tasks. This is the one place where tasks are
    mapped and reduced over ranks: a mean loss with a graph would hold every task's activations,
    and all-reducing such a loss gives wrong gradients.

    Args:
        fn: the objective of one task. Build it once: compiled functions are kept by identity.
        data: tensors with a leading task dimension, in any nesting of tuples and dicts.
        fisher: ``(theta, v, one task's data) -> F_task v`` where a cheaper product is known; None
            takes the Hessian of ``kl``, which is the Fisher matrix where ``kl`` has its minimum.
        mapping: ``auto | vmap | chunk:N | threads``, perhaps ``+compile``.
        reduce: sums a flat tensor over ranks; the division by the number of tasks follows it.
    """
    resolved = resolve_mapping(mapping, data)

    def mean(run: ChunkFunction, shared: Any) -> Any:
        with torch.no_grad():
            return mean_of_chunks(run_chunks(run, shared, data, resolved), data, reduce)

    def value(theta: Params) -> tuple[Tensor, Tensor]:
        loss, kl = mean(values(fn), (theta,))
        return loss, kl

    def gradient(theta: Params) -> tuple[Tensor, Tensor, Params]:
        g, (loss, kl) = mean(gradients(fn), (theta,))
        return loss, kl, g

    def product(theta: Params, v: Params) -> Params:
        fv: Params = mean(_products(fn, fisher), (theta, v))
        return fv

    return Objective(value, gradient, product)


def mean_of_chunks(sums: list[Any], data: Any, reduce: Reduce | None) -> Any:
    """Mean over tasks from the chunks' sums; over ranks, sums and count travel in one tensor.

    Args:
        sums: one output a chunk, each summed over its tasks.
        data: what was mapped, for the number of tasks.
        reduce: sums a flat tensor over ranks.
    """
    tasks = count_tasks(data)
    leaves, spec = tree_flatten(sum_in_order(sums))
    if reduce is None:
        return tree_unflatten([x / tasks for x in leaves], spec)
    count = torch.full((1,), float(tasks), dtype=leaves[0].dtype, device=leaves[0].device)
    flat = reduce(torch.cat([count, *(x.reshape(-1) for x in leaves)]))
    parts = torch.split(flat[1:] / flat[0], [x.numel() for x in leaves])
    shaped = [part.view_as(x) for part, x in zip(parts, leaves, strict=True)]
    return tree_unflatten(shaped, spec)


def _summed(fn: Callable[..., Any]) -> ChunkFunction:
    """``fn(*shared, one task's data)`` summed over a chunk."""
    stacked = each(lambda shared, data: fn(*shared, data))

    def run(shared: Any, data: Any) -> Any:
        return tree_map(lambda x: x.sum(0), stacked(shared, data))

    return run


# Chunk functions are kept by the identity of what they are made of, so that each is compiled once.


@functools.lru_cache(maxsize=64)
def values(fn: Callable[..., Any]) -> ChunkFunction:
    """Chunk function ``(shared, data) -> sums`` of ``fn(*shared, data)``."""
    return _summed(fn)


@functools.lru_cache(maxsize=64)
def gradients(fn: Callable[..., Any]) -> ChunkFunction:
    """Chunk function ``((theta, *shared), data) -> (d sum / d theta, sums)``.

    ``fn(theta, *shared, data)`` returns a tuple of scalars, of which the first is differentiated.
    The gradient is that of the chunk's sum: theta enters once, and its products with all of the
    chunk's data are single matrix products.
    """
    summed = _summed(fn)

    def run(shared: Any, data: Any) -> Any:
        theta, *rest = shared

        def total(theta: Params) -> Any:
            outputs = summed((theta, *rest), data)
            return first(outputs), outputs

        return torch.func.grad(total, has_aux=True)(theta)

    return run


@functools.lru_cache(maxsize=64)
def _products(fn: TaskFunction, fisher: FisherFunction | None) -> ChunkFunction:
    if fisher is not None:
        return _summed(fisher)
    _load_forward_mode()
    summed = _summed(fn)

    def run(shared: Any, data: Any) -> Any:
        theta, v = shared
        slope = torch.func.grad(lambda theta: summed((theta,), data)[1])
        return torch.func.jvp(slope, (theta,), (v,))[1]

    return run


@functools.cache
def _load_forward_mode() -> None:
    # torch loads its rules for it on first use, with a warning that it deprecates torch.jit.
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]
