"""The meta-loss: how well all tasks do where adaptation leads them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .adaptation import adapt_tasks, queries_of, split_inner
from .errors import InputError
from .inner import InnerLoop, adapt_path_one, supports_of
from .kept import kept_if
from .loss import Loss, checked, first
from .mapping import Mapping, resolve_mapping
from .objective import mean_gradient, values
from .params import Params, expand_params, split_rates
from .rates import check_fixed
from .reduction import Reducer, run_mean
from .trees import leaves


def meta_gradient(
    inner_loss: Loss,
    outer_loss: Loss,
    params: Params,
    supports: Sequence[Any],
    query: Any,
    inner: InnerLoop,
    *,
    step_weights: Sequence[float] | None = None,
    mapping: str = "auto",
    reduce: Reducer | None = None,
) -> tuple[Any, Params]:
    """Loss after adaptation, ``1/T sum_i outer(U(params, supports_i), query_i)``, and its slope.

    Finn, Abbeel, Levine 2017, equation 1. The gradient goes through the adaptation ``U`` unless
    ``inner.first_order``, and is taken a chunk of tasks at a time: no task's graph outlives its
    chunk.

    Args:
        inner_loss: what a task descends, see `adapt_path`.
        outer_loss: what is measured after adaptation, ``(params, batch)`` likewise.
        params: what to differentiate by, learned step sizes among them.
        supports: one batch for each inner step, tensors with a leading task dimension.
        query: a batch with a leading task dimension; with ``step_weights`` a list of one batch
            for each inner step also serves (a list built like a support is one batch).
        inner: how a task steps.
        step_weights: multi-step loss (MAML++, Antoniou et al. 2019): weights of the outer loss
            after step 1, ..., K; the other fields are those after step K. None: step K alone.
        mapping: ``auto | vmap | chunk:N | threads``, perhaps ``+compile`` (see `Loss`).
        reduce: sums a flat tensor over ranks, so that value and gradient are means over all; see
            `mean_over_tasks`.

    Returns:
        What ``outer_loss`` returns, averaged over tasks, and the gradient of its first field, laid
        out in memory as ``params``.

    Raises:
        InputError: counts of batches, weights or tasks disagree, this is inside a ``torch.func``
            transform, or as `InnerLoop` says.
    """
    fn, shared, data, resolved = _problem(
        inner_loss, outer_loss, params, supports, query, inner, step_weights, mapping
    )
    if torch._C._functorch.maybe_current_level() is not None:
        raise InputError(
            "a meta-gradient is a number to torch.func transforms, and cannot be differentiated "
            "again: inside them differentiate the outer loss of adapt, or of adapt_tasks"
        )
    return mean_gradient(fn, shared, data, resolved, reduce)


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
    reduce: Reducer | None = None,
) -> Any:
    """Loss after adaptation whose ``.backward()`` hands over the gradient of `meta_gradient`.

    The gradient is computed along with the value. It cannot be differentiated twice.

    Args:
        inner_loss: what ONE task descends, ``(params, support) -> scalar``, see `Loss`.
        outer_loss: what is measured after adaptation, ``(params, query)`` of ONE task likewise.
        params: name -> leaf tensor, learned step sizes among them. Where none requires a gradient,
            or gradients are switched off, the value alone is computed.
        supports: one batch for each inner step, tensors with a leading task dimension.
        query: a batch with a leading task dimension, or one for each step, see `meta_gradient`.
        inner: how a task steps.
        step_weights: of the multi-step loss, see `meta_gradient`; None: the last step alone.
        mapping: ``auto | vmap | chunk:N | threads``, perhaps ``+compile`` (see `Loss`).
        reduce: sums a flat tensor over ranks.

    Returns:
        What ``outer_loss`` returns, averaged over tasks; only the first field has a gradient.

    Raises:
        InputError: as in `meta_gradient`.
    """
    wanted = any(_wants_gradients(part) for part in split_rates(params))
    if not (torch.is_grad_enabled() and wanted):
        fn, shared, data, resolved = _problem(
            inner_loss, outer_loss, params, supports, query, inner, step_weights, mapping
        )
        return run_mean(kept_if(resolved.compile, values, fn), shared, data, resolved, reduce)
    outputs, gradient = meta_gradient(
        inner_loss,
        outer_loss,
        params,
        supports,
        query,
        inner,
        step_weights=step_weights,
        mapping=mapping,
        reduce=reduce,
    )
    in_order = [gradient[name] for name in params]
    loss = _HeldGradient.apply(first(outputs), in_order, *params.values())  # type: ignore[no-untyped-call]
    return _with_loss(outputs, loss)


def _with_loss(outputs: Any, loss: Tensor) -> Any:
    """What the outer loss returned, with another loss."""
    if isinstance(outputs, Tensor):
        return loss
    return outputs._replace(**{outputs._fields[0]: loss})


def _problem(
    inner_loss: Loss,
    outer_loss: Loss,
    params: Params,
    supports: Sequence[Any],
    query: Any,
    inner: InnerLoop,
    step_weights: Sequence[float] | None,
    mapping: str,
) -> tuple[Any, Any, Any, Mapping]:
    """The function of one task, what all tasks share, the data of each, and how it is mapped."""
    supports = supports_of(supports)
    queries = queries_of(query, supports)
    if step_weights is not None and _wants_gradients(list(step_weights)):
        raise InputError(
            "step_weights require gradients, which a meta-gradient would not give them: detach them"
        )
    weights = None if step_weights is None else tuple(float(w) for w in step_weights)
    if weights is not None and (not weights or len(weights) != len(supports)):
        raise InputError(
            f"step_weights has {len(weights)} weights for {len(supports)} inner steps: "
            "give one for the loss after each step"
        )
    if len(queries) > 1 and (weights is None or len(queries) != len(supports)):
        raise InputError(
            f"query is a list of {len(queries)} batches: several need step_weights, and one batch "
            f"for each of the {len(supports)} inner steps; a single batch that is a list must be "
            "built like the supports, or be a tuple"
        )
    options, lr = split_inner(inner, params)
    check_fixed(inner.lr)
    if torch.is_grad_enabled() and _wants_gradients((supports, queries)):
        raise InputError(
            "a batch holds tensors that require gradients, which a meta-gradient would not give "
            "them: merge what is learned into params, detach the rest, or take adapt_tasks"
        )
    like = next(iter(params.values()))
    data = (supports, queries)
    resolved = resolve_mapping(mapping, data)
    multi_step = weights is not None
    fn = kept_if(resolved.compile, _adapted_loss, inner_loss, outer_loss, options, multi_step)
    shared = (params, lr, None if weights is None else like.new_tensor(weights))
    return fn, shared, data, resolved


def _wants_gradients(tree: Any) -> bool:
    return any(isinstance(x, Tensor) and x.requires_grad for x in leaves(tree))


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
    check_fixed(inner.lr)
    supports = supports_of(supports)
    inner = dataclasses.replace(inner, first_order=True)
    with torch.no_grad():
        end = (
            adapt_tasks(inner_loss, params, supports, inner, mapping=mapping)
            if supports
            else expand_params(params, 1)  # no step: all tasks stay where they are
        )
    moved = [(p - end[name]).reshape(len(end[name]), -1) for name, p in start.items()]
    return 0.5 * torch.stack([m.square().sum(1) for m in moved]).sum(0).mean()


class _HeldGradient(torch.autograd.Function):
    """A loss whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradient: list[Tensor], *params: Tensor) -> Tensor:
        ctx.save_for_backward(*gradient)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *torch._foreach_mul(ctx.saved_tensors, slope))


def _adapted_loss(inner_loss: Loss, outer_loss: Loss, options: InnerLoop, multi_step: bool) -> Any:
    def fn(theta: Params, lr: Params, weights: Tensor | None, data: Any) -> Any:
        supports, queries = data
        path = adapt_path_one(inner_loss, theta, supports, dataclasses.replace(options, lr=lr))
        if not multi_step:
            return checked(outer_loss(path[-1], queries[0]))
        each_step = queries if len(queries) > 1 else queries * len(supports)
        outputs = [checked(outer_loss(p, q)) for p, q in zip(path[1:], each_step, strict=True)]
        assert weights is not None
        total: Any = sum(weights[k] * first(o) for k, o in enumerate(outputs))
        return _with_loss(outputs[-1], total)

    return fn
