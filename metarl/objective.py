"""Objectives as three functions of theta: value, gradient and Fisher product, mean over tasks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .chunks import ChunkFunction, each
from .gauss_newton import GaussNewton, gauss_newton
from .kept import kept_if
from .loss import depending, first
from .mapping import Mapping, resolve_mapping
from .params import Params
from .reduction import Reducer, run_mean


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


def mean_over_tasks(
    fn: TaskFunction,
    data: Any,
    *,
    fisher: GaussNewton | None = None,
    mapping: str = "auto",
    reduce: Reducer | None = None,
) -> Objective:
    """Average ``fn(theta, one task's data) -> (loss, kl)`` over tasks.

    Values and gradients keep sums only, never the graphs of all tasks: a mean loss with a graph
    would hold every task's activations, and all-reducing such a loss over ranks gives wrong
    gradients. Fisher products of a `GaussNewton` do keep, of every task, what does not depend on
    the vector, until the objective ends: give them few time steps or points.

    Args:
        fn: the objective of one task. Where it is compiled, build it once: programs are kept by its
            identity, and keep it.
        data: tensors with a leading task dimension, in any nesting of tuples and dicts.
        fisher: what makes the Fisher matrix; None takes the Hessian of ``kl``, which it is where
            ``kl`` has its minimum.
        mapping: ``auto | vmap | chunk:N | threads``, perhaps ``+compile`` (see `Loss`).
        reduce: sums a flat tensor over ranks; the division by the number of tasks follows it.
            `InOrder` adds up all tasks in their order.
    """
    resolved = resolve_mapping(mapping, data)

    def mean(run: ChunkFunction, shared: Any) -> Any:
        return run_mean(run, shared, data, resolved, reduce)

    def value(theta: Params) -> tuple[Tensor, Tensor]:
        loss, kl = mean(kept_if(resolved.compile, values, fn), (theta,))
        return loss, kl

    def gradient(theta: Params) -> tuple[Tensor, Tensor, Params]:
        (loss, kl), slope = mean_gradient(fn, (theta,), data, resolved, reduce)
        return loss, kl, slope

    def hessian(theta: Params, v: Params) -> Params:
        along = {name: v[name] for name in theta}
        fv: Params = mean(kept_if(resolved.compile, _hessians, fn), (theta, along))
        return fv

    if fisher is None:
        return Objective(value, gradient, hessian)
    return Objective(value, gradient, gauss_newton(fisher, data, resolved, reduce))


def _summed(fn: Callable[..., Any]) -> ChunkFunction:
    """``fn(*shared, one task's data)`` summed over a chunk."""
    stacked = each(lambda shared, data: fn(*shared, data))

    def run(shared: Any, data: Any) -> Any:
        return tree_map(lambda x: x.sum(0), stacked(shared, data))

    return run


def values(fn: Callable[..., Any]) -> ChunkFunction:
    """Chunk function ``(shared, data) -> sums`` of ``fn(*shared, data)``."""
    return _summed(fn)


def mean_gradient(
    fn: Callable[..., Any],
    shared: tuple[Any, ...],
    data: Any,
    mapping: Mapping,
    reduce: Reducer | None,
) -> tuple[Any, Params]:
    """Means over tasks of the values and the gradient of ``fn(theta, *rest, one task's data)``.

    The gradient lies in memory as theta does: a fused optimiser steps through both in the order
    of memory, and compiled programs may hand over a transpose.
    """
    run = kept_if(mapping.compile, gradients, fn)
    gradient, outputs = run_mean(run, shared, data, mapping, reduce)
    return outputs, {name: _laid_out_like(g, shared[0][name]) for name, g in gradient.items()}


def _laid_out_like(x: Tensor, like: Tensor) -> Tensor:
    return x if x.stride() == like.stride() else torch.empty_like(like, dtype=x.dtype).copy_(x)


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
            return depending(first(outputs)), outputs

        return torch.func.grad(total, has_aux=True)(theta)

    return run


def _hessians(fn: TaskFunction) -> ChunkFunction:
    """Chunk function ``((theta, v), data) -> (d^2 sum of kl / d theta^2) v``."""
    summed = _summed(fn)

    def run(shared: Any, data: Any) -> Any:
        theta, v = shared
        slope = torch.func.grad(lambda theta: summed((theta,), data)[1])
        # H' v, for H is symmetric: not all operations have a forward-mode derivative.
        return torch.func.vjp(slope, theta)[1](v)[0]

    return run
