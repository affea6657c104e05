"""Adaptation of all tasks: the parameters each passes through, and how well they do."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_structure

from .chunks import ChunkFunction, each, run_chunks
from .errors import InputError
from .inner import InnerLoop, adapt_path_one, adapting, supports_of
from .kept import kept_if
from .loss import Loss
from .mapping import resolve_mapping
from .params import Params, expand_params, split_rates
from .rates import rate_of
from .task_dimension import count_tasks
from .trees import leaves


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
        mapping: ``auto | vmap | chunk:N | threads``, perhaps ``+compile`` (see `Loss`).

    Returns:
        ``[theta_0, ..., theta_K]``, each name -> ``(task, *shape)``, without step sizes.

    Raises:
        InputError: batches disagree on the number of tasks, or as `InnerLoop` says.
    """
    supports = supports_of(supports)
    start = expand_params(params, count_tasks(_some(supports)))
    moved = _moved(loss, params, supports, inner, mapping, _every_step)
    return [start, *({**start, **step} for step in moved)]


def adapt_tasks(
    loss: Loss, params: Params, supports: Sequence[Any], inner: InnerLoop, *, mapping: str = "auto"
) -> Params:
    """Every task's parameters after all inner steps: the last of `adapt_path`.

    Those in between are kept where a graph needs them, and nowhere else.
    """
    supports = supports_of(supports)
    start = expand_params(params, count_tasks(_some(supports)))
    (moved,) = _moved(loss, params, supports, inner, mapping, _last_step)
    return {**start, **moved}


def _some(supports: tuple[Any, ...]) -> tuple[Any, ...]:
    if not supports:
        raise InputError("adapting needs one support batch for each inner step, got none")
    return supports


def _moved(
    loss: Loss,
    params: Params,
    supports: tuple[Any, ...],
    inner: InnerLoop,
    mapping: str,
    chosen: Callable[[list[Params]], list[Params]],
) -> list[Params]:
    """What moved, of all tasks, after the chosen ones of the steps."""
    options, lr = split_inner(inner, params)
    resolved = resolve_mapping(mapping, supports)
    run = kept_if(resolved.compile, _paths, loss, options, chosen)
    chunks = run_chunks(run, (params, lr), supports, resolved)
    return [
        {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*chunks, strict=True)
    ]


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
        outer_loss: what is measured, ``(params, batch)`` of one task -> tensors: a `Loss`, or
            anything else, such as the errors of every query item.
        params: theta, learned step sizes among them.
        supports: one batch for each inner step.
        query: one batch, or a list of one for each k; a list built like a support is one batch.
        inner: how a task steps.
        mapping: see `adapt_path`.

    Returns:
        What ``outer_loss`` returns, each tensor ``(K + 1, task, *its own shape)``.

    Raises:
        InputError: a list of queries that is not one for each k, an outer loss that returns
            something else than tensors, or as in `adapt_path`.
    """
    supports = supports_of(supports)
    with torch.no_grad():
        path = (
            adapt_path(inner_loss, params, supports, inner, mapping=mapping)
            if supports
            else [expand_params(params, count_tasks(query))]
        )
        queries = queries_of(query, supports)
        queries = queries * len(path) if len(queries) == 1 else queries
        if len(queries) != len(path):
            raise InputError(
                f"query is a list of {len(queries)} batches for {len(path)} points of the curve: "
                "give one for each k = 0..K, or a single one for all"
            )
        resolved = resolve_mapping(mapping, (supports, query))
        measure = kept_if(resolved.compile, _measures, outer_loss)
        rows = [
            tree_map(lambda *x: torch.cat(x), *run_chunks(measure, (), (theta, q), resolved))
            for theta, q in zip(path, queries, strict=True)
        ]
        return tree_map(lambda *x: torch.stack(x), *rows)


def queries_of(query: Any, supports: Sequence[Any]) -> tuple[Any, ...]:
    """The query batches: those of a list, unless it is built like a support and so one batch.

    A batch that is a list is what torch's ``DataLoader`` makes of pairs.
    """
    if not isinstance(query, list):
        return (query,)
    one = bool(supports) and tree_structure(query) == tree_structure(supports[0])
    return (query,) if one else tuple(query)


def split_inner(inner: InnerLoop, params: Params) -> tuple[InnerLoop, Params]:
    """Options that a compiled function is built for, and the step sizes it takes as tensors.

    A step size that reached it as a Python number would be compiled in, once for every value; so
    would a weight of the multi-step loss.

    Raises:
        InputError: the options are none, or there is no parameter.
    """
    if not isinstance(inner, InnerLoop):
        raise InputError(f"inner is a {type(inner).__name__}: give a metarl.InnerLoop")
    options = dataclasses.replace(inner, lr=0.0)
    model, learned = split_rates(params)
    if not model:
        raise InputError("params holds no parameter: give name -> tensor, as from_module does")
    if isinstance(inner.lr, dict):
        lr = inner.lr  # one of no parameter is refused later
        return options, {n: rate_of(x, model[n]) if n in model else x for n, x in lr.items()}
    kinds = {(p.dtype, p.device) for p in model.values()}
    same = {kind: torch.full((), inner.lr, dtype=kind[0], device=kind[1]) for kind in kinds}
    return options, {n: same[p.dtype, p.device] for n, p in model.items() if n not in learned}


def _every_step(path: list[Params]) -> list[Params]:
    return path[1:]


def _last_step(path: list[Params]) -> list[Params]:
    return path[-1:]


def _paths(
    loss: Loss, options: InnerLoop, chosen: Callable[[list[Params]], list[Params]]
) -> ChunkFunction:
    def path(shared: Any, supports: Any) -> list[Params]:
        params, lr = shared
        names = adapting(split_rates(params)[0], options)
        steps = adapt_path_one(loss, params, supports, dataclasses.replace(options, lr=lr))
        return [{name: step[name] for name in names} for step in chosen(steps)]

    return each(path)


def _measures(loss: Loss) -> ChunkFunction:
    def measure(_: Any, adapted: Any) -> Any:
        measured = loss(*adapted)
        for x in leaves(measured):
            if not isinstance(x, Tensor):
                raise InputError(
                    f"outer_loss returned a value of type {type(x).__name__}: return tensors, such "
                    "as torch.tensor(1.0)"
                )
        return measured

    return each(measure)
