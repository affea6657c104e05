"""The meta-learner: adaptation of all tasks, and the loss of where it leads."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_map

from .errors import InputError
from .inner import InnerLoop, Loss, adapt_path_one, first
from .mapping import ChunkFunction, count_tasks, each, resolve_mapping, run_chunks
from .objective import Reduce, gradients, mean_of_chunks, values
from .params import Params, expand_params, split_rates


def adapt_path(
    loss: Loss, params: Params, supports: Sequence[Any], inner: InnerLoop, *, mapping: str = "auto"
) -> list[Params]:
    """Adapt to every task: ``theta_{k+1} = theta_k - lr_k * grad loss(theta_k, supports[k])``.

    Differentiable in ``params`` under the caller's grad mode.

    Args:
        loss: of ONE task, ``(params, batch) -> scalar`` or NamedTuple with the loss first.
        params: name -> ``shape``, shared by the tasks; learned step sizes as in `split_rates`.
        supports: one batch for each inner step, tensors with a leading task dimension.
        inner: how a task steps.
        mapping: ``auto | vmap | chunk:N | threads``, perhaps ``+compile`` (under no_grad only).

    Returns:
        ``[theta_0, ..., theta_K]``, each name -> ``(task, *shape)``, without step sizes.

    Raises:
        InputError: batches disagree on the number of tasks, or as `InnerLoop` says.
    """
    supports = tuple(supports)
    if not supports:
        raise InputError("adapt_path needs one support batch for each inner step, got none")
    tasks = count_tasks(supports)
    options, lr = _split_inner(inner, params)
    chunks = run_chunks(
        _paths(loss, options), (params, lr), supports, resolve_mapping(mapping, supports)
    )
    moved = [
        {name: torch.cat([chunk[k][name] for chunk in chunks]) for name in chunks[0][k]}
        for k in range(len(supports))
    ]
    start = expand_params(params, tasks)
    return [start, *({**start, **step} for step in moved)]


def adapt_tasks(
    loss: Loss, params: Params, supports: Sequence[Any], inner: InnerLoop, *, mapping: str = "auto"
) -> Params:
    """Every task's parameters after all inner steps: the last of `adapt_path`."""
    return adapt_path(loss, params, supports, inner, mapping=mapping)[-1]


def adaptation_curve(
    inner_loss: Loss,
    outer_loss: Loss,
    params: Params,
    supports: Sequence[Any],
    query: Any,
    inner: InnerLoop,
    *,
    mapping: str = "auto",
) -> Any:
    """Outer loss of every task after k = 0..K inner steps, without a graph.

    Args:
        inner_loss: what a task descends, see `adapt_path`.
        outer_loss: what is measured.
        params: theta, learned step sizes among them.
        supports: one batch for each inner step.
        query: one batch, or a list of one for each k.
        inner: how a task steps.
        mapping: see `adapt_path`.

    Returns:
        What ``outer_loss`` returns, each field ``(K + 1, task)``.
    """
    with torch.no_grad():
        path = adapt_path(inner_loss, params, supports, inner, mapping=mapping)
        queries = query if isinstance(query, list) else [query] * len(path)
        measure = _measures(outer_loss)
        resolved = resolve_mapping(mapping, (supports, query))
        rows = [
            tree_map(lambda *x: torch.cat(x), *run_chunks(measure, (), (theta, q), resolved))
            for theta, q in zip(path, queries, strict=True)
        ]
        return tree_map(lambda *x: torch.stack(x), *rows)


def meta_loss(
    inner_loss: Loss,
    outer_loss: Loss,
    params: Params,
    supports: Sequence[Any],
    query: Any,
    inner: InnerLoop,
    *,
    step_weights: Sequence[float] | None = None,
    mapping: str = "auto",
    reduce: Reduce | None = None,
) -> Any:
    """Loss after adaptation, ``1/T sum_i outer(U(params, supports_i), query_i)``.

    Finn, Abbeel, Levine 2017, equation 1. Its gradient, through the adaptation ``U`` unless
    ``inner.first_order``, is computed along with it, a chunk of tasks at a time, and handed over
    by ``.backward()``: no task's graph outlives its chunk. It cannot be differentiated twice.

    Args:
        inner_loss: what a task descends, see `adapt_path`.
        outer_loss: what is measured after adaptation, ``(params, batch)`` likewise.
        params: leaf tensors to differentiate, learned step sizes among them.
        supports: one batch for each inner step, tensors with a leading task dimension.
        query: a batch with a leading task dimension; with ``step_weights`` a list of one batch
            for each inner step also serves.
        inner: how a task steps.
        step_weights: multi-step loss (MAML++, Antoniou et al. 2019): weights of the outer loss
            after step 1, ..., K; the other fields are those after step K. None: step K alone.
        mapping: ``auto | vmap | chunk:N | threads``, perhaps ``+compile``.
        reduce: sums a flat tensor over ranks, so that value and gradient are means over all.

    Returns:
        What ``outer_loss`` returns, averaged over tasks; only the first field has a gradient.

    Raises:
        InputError: counts of batches, weights or tasks disagree, or as `InnerLoop` says.
    """
    supports = tuple(supports)
    queries = tuple(query) if isinstance(query, list) else (query,)
    weights = None if step_weights is None else tuple(float(w) for w in step_weights)
    if weights is not None and len(weights) != len(supports):
        raise InputError(
            f"step_weights has {len(weights)} weights for {len(supports)} inner steps: "
            "give one for the loss after each step"
        )
    if len(queries) > 1 and (weights is None or len(queries) != len(supports)):
        raise InputError(
            f"query is a list of {len(queries)} batches: several need step_weights, and one batch "
            f"for each of the {len(supports)} inner steps"
        )
    if isinstance(inner.lr, dict) and any(x.requires_grad for x in inner.lr.values()):
        raise InputError(
            "InnerLoop.lr holds tensors that require gradients, which meta_loss would not give "
            "them: merge learned step sizes into params (learned_rates), or detach these"
        )
    options, lr = _split_inner(inner, params)
    fn = _adapted_loss(inner_loss, outer_loss, options, weights is not None)
    like = next(iter(params.values()))
    shared = (params, lr, None if weights is None else like.new_tensor(weights))
    data = (supports, queries)
    resolved = resolve_mapping(mapping, data)
    wanted = torch.is_grad_enabled() and any(p.requires_grad for p in params.values())
    if wanted and torch._C._functorch.maybe_current_level() is not None:
        raise InputError(
            "meta_loss holds its gradient for .backward(), which torch.func transforms do not use: "
            "inside them differentiate the outer loss of adapt, or of adapt_tasks"
        )
    run = gradients(fn) if wanted else values(fn)
    with torch.no_grad():
        mean = mean_of_chunks(run_chunks(run, shared, data, resolved), data, reduce)
    if not wanted:
        return mean
    gradient, outputs = mean
    in_order = [gradient[name] for name in params]
    loss = _HeldGradient.apply(first(outputs), in_order, *params.values())  # type: ignore[no-untyped-call]
    if isinstance(outputs, Tensor):
        return loss
    return outputs._replace(**{outputs._fields[0]: loss})


def reptile_loss(
    inner_loss: Loss,
    params: Params,
    supports: Sequence[Any],
    inner: InnerLoop,
    *,
    mapping: str = "auto",
) -> Tensor:
    """``1/2 mean_i |theta - stop(theta'_i)|^2``, whose gradient is ``mean_i (theta - theta'_i)``.

    Nichol, Achiam, Schulman 2018. Step sizes cannot be learned by it.

    Raises:
        InputError: ``params`` holds learned step sizes, or as in `adapt_path`.
    """
    start, rates = split_rates(params)
    if rates:
        raise InputError(
            "reptile_loss gives learned step sizes no gradient: give InnerLoop.lr a fixed one"
        )
    with torch.no_grad():
        inner = dataclasses.replace(inner, first_order=True)
        end = adapt_tasks(inner_loss, params, supports, inner, mapping=mapping)
    squares = [(p - end[name]).square().flatten(1).sum(1) for name, p in start.items()]
    return 0.5 * torch.stack(squares).sum(0).mean()


class _HeldGradient(torch.autograd.Function):
    """A loss whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradient: list[Tensor], *params: Tensor) -> Tensor:
        ctx.save_for_backward(*gradient)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(slope * g for g in ctx.saved_tensors))


def _split_inner(inner: InnerLoop, params: Params) -> tuple[InnerLoop, Params]:
    """Options that a compiled function is built for, and the step sizes it takes as tensors.

    A step size that reached it as a Python number would be compiled in, once for every value; so
    would a weight of the multi-step loss.
    """
    model = split_rates(params)[0]
    if isinstance(inner.lr, dict):
        lr = inner.lr
    else:
        lr = {name: p.new_full((), inner.lr) for name, p in model.items()}
    return dataclasses.replace(inner, lr=0.0), lr


@functools.lru_cache(maxsize=64)
def _paths(loss: Loss, options: InnerLoop) -> ChunkFunction:
    def path(shared: Any, supports: Any) -> list[Params]:
        params, lr = shared
        names = [n for n in split_rates(params)[0] if options.adapted is None or options.adapted(n)]
        steps = adapt_path_one(loss, params, supports, dataclasses.replace(options, lr=lr))
        return [{name: step[name] for name in names} for step in steps[1:]]

    return each(path)


@functools.lru_cache(maxsize=64)
def _measures(loss: Loss) -> ChunkFunction:
    return each(lambda _, adapted: loss(*adapted))


@functools.lru_cache(maxsize=64)
def _adapted_loss(inner_loss: Loss, outer_loss: Loss, options: InnerLoop, multi_step: bool) -> Any:
    def fn(theta: Params, lr: Params, weights: Tensor | None, data: Any) -> Any:
        supports, queries = data
        path = adapt_path_one(inner_loss, theta, supports, dataclasses.replace(options, lr=lr))
        if not multi_step:
            return outer_loss(path[-1], queries[0])
        each_step = queries if len(queries) > 1 else queries * len(supports)
        outputs = [outer_loss(p, q) for p, q in zip(path[1:], each_step, strict=True)]
        assert weights is not None
        total = sum(weights[k] * first(o) for k, o in enumerate(outputs))
        last = outputs[-1]
        return total if isinstance(last, Tensor) else last._replace(**{last._fields[0]: total})

    return fn
