"""The inner loop: gradient steps of one task, differentiable with respect to where they start."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, cast

import torch
from torch import Tensor

from .checks import check_choice, check_positive
from .elementary import Elementary
from .errors import InputError
from .inner_optimizers import OPTIMIZERS
from .loss import Loss, checked, depending, first
from .params import Params, split_rates
from .rates import rate_at, resolve_rates
from .recomputing import recomputed


@dataclass(frozen=True)
class InnerLoop:
    """How a task adapts: ``theta_{k+1} = theta_k - lr_k * g(theta_k)``.

    Attributes:
        lr: step size. A number, or name -> number or tensor of shape ``()`` (per tensor), of the
            parameter's own shape (per element: Meta-SGD, Li et al. 2017), or either of these with
            a leading ``(steps,)`` (per step: LSLR, Antoniou et al. 2019; written ``(steps, 1)``
            for a one-dimensional parameter, since its own shape means per element). Beyond the
            last of several steps the last is used. Learned step sizes are entries of theta named
            ``inner_lr.<parameter>`` and take precedence; see `split_rates`.
        first_order: treat inner gradients as constants (FOMAML).
        adapted: which parameters move, by name (ANIL, Raghu et al. 2020); None for all.
        optimizer: ``sgd``; ``momentum`` (coefficient 0.9); ``adam`` (0.9, 0.999, 1e-8). Moments
            start at zero with the task.
        clip: bound on the norm of the inner gradient over all adapted parameters; None for none.
        recompute: keep only the parameters between steps for the meta-gradient, and compute each
            step again where it is differentiated: memory of one step instead of all, for about
            one more evaluation of every inner gradient. Random numbers of the loss, such as
            dropout's, are repeated then, on the CPU and on CUDA; this needs a mapping other than
            threads, not compiled.
            What the loss closes over is a constant of these steps, without a gradient from them:
            what is to be learned belongs in theta.
    """

    lr: float | Params = 0.1
    first_order: bool = False
    adapted: Callable[[str], bool] | None = None
    optimizer: Literal["sgd", "momentum", "adam"] = "sgd"
    clip: float | None = None
    recompute: bool = False

    def __post_init__(self) -> None:
        check_choice("InnerLoop.optimizer", self.optimizer, OPTIMIZERS)
        lr, adapted = cast("Any", self.lr), cast("Any", self.adapted)
        if isinstance(lr, Tensor):
            raise InputError(
                "InnerLoop.lr is a tensor: give a number, or name -> tensor; step sizes to be "
                "learned are entries of theta, see learned_rates"
            )
        if not isinstance(lr, dict | Real):
            raise InputError(
                f"InnerLoop.lr is a {type(lr).__name__}: give a number, or a dict of name -> tensor"
            )
        for name, rate in lr.items() if isinstance(lr, dict) else ():
            if not isinstance(rate, Tensor | Real):
                raise InputError(
                    f"InnerLoop.lr[{name!r}] is a {type(rate).__name__}: give a number or a tensor"
                )
        if isinstance(lr, Real) and not math.isfinite(lr):
            raise InputError(f"InnerLoop.lr is {self.lr}: it must be finite")
        if not isinstance(cast("Any", self.first_order), bool):
            raise InputError(
                f"InnerLoop.first_order is {self.first_order!r}: give True or False; a task takes "
                "as many steps as it is given supports"
            )
        if adapted is not None and not callable(adapted):
            raise InputError(
                f"InnerLoop.adapted is a {type(adapted).__name__}: give a function of a "
                "parameter's name that says whether it moves"
            )
        if self.clip is not None:
            check_positive("InnerLoop.clip", self.clip)


def adapting(params: Iterable[str], inner: InnerLoop) -> list[str]:
    """Names of the parameters that move."""
    return [name for name in params if inner.adapted is None or inner.adapted(name)]


def adapt_path_one(
    loss: Loss, theta: Params, supports: Sequence[Any], inner: InnerLoop
) -> list[Params]:
    """All the parameters that ONE task passes through: ``[theta_0, ..., theta_K]``.

    ``theta_{k+1} = theta_k - lr_k * step(grad loss(theta_k, supports[k]))``, differentiable in
    ``theta`` (unless first order) and composable with ``torch.func`` transforms.

    Args:
        loss: see `Loss`.
        theta: parameters, and learned step sizes if any; the losses do not see the latter.
        supports: one batch for each inner step.
        inner: how to step.

    Raises:
        InputError: no parameter moves; a step size is missing, unused or of the wrong shape.
    """
    params, learned = split_rates(theta)
    names = adapting(params, inner)
    rates = resolve_rates(inner.lr, learned, params, names)
    state = OPTIMIZERS[inner.optimizer].start({name: params[name] for name in names})
    path = [params]
    step = _step(loss, inner, names)
    if inner.recompute and not inner.first_order:  # which keeps nothing to compute again
        step = recomputed(step)
    for k, support in enumerate(supports):
        here = path[-1]
        lr = {name: rate_at(rates[name], here[name], k) for name in names}
        moved, state = step(here, lr, state, support)
        path.append({**here, **moved})
    return path


def supports_of(supports: Iterable[Any]) -> tuple[Any, ...]:
    """The support batches, one a step; not one batch, which would be taken apart into steps.

    Raises:
        InputError: it is a mapping, a NamedTuple, a tensor, or several bare tensors, such as
            ``(x, y)``.
    """
    one = isinstance(supports, Mapping | Tensor) or hasattr(supports, "_fields")
    batches = tuple(supports)
    if one or len({id(batch) for batch in batches if isinstance(batch, Tensor)}) > 1:
        raise InputError(
            f"supports is a {type(supports).__name__} that looks like a single batch: give one "
            "batch for each inner step, [batch] * steps; of batches that are one tensor each, "
            "give tuples, (x,)"
        )
    return batches


def _step(loss: Loss, inner: InnerLoop, names: list[str]) -> Callable[..., tuple[Params, Any]]:
    """``(theta_k, step sizes, optimiser state, support k) -> (what moved, optimiser state)``."""
    optimizer = OPTIMIZERS[inner.optimizer]

    def step(here: Params, lr: Params, state: Any, support: Any) -> tuple[Params, Any]:
        seen = {n: p.detach() for n, p in here.items()} if inner.first_order else here

        def support_loss(moving: Params) -> Tensor:
            with Elementary():
                return depending(first(checked(loss({**seen, **moving}, support))))

        gradient = torch.func.grad(support_loss)({name: seen[name] for name in names})
        if inner.first_order:
            gradient = {name: g.detach() for name, g in gradient.items()}
        if inner.clip is not None:
            gradient = _clipped(gradient, inner.clip)
        direction, state = optimizer.direction(gradient, state)
        return {name: here[name] - lr[name] * direction[name] for name in names}, state

    return step


def adapt(loss: Loss, params: Params, supports: Sequence[Any], inner: InnerLoop) -> Params:
    """ONE task's parameters after all its steps, to be mapped or differentiated by the caller.

    ``theta_{k+1} = theta_k - lr_k * step(grad loss(theta_k, supports[k]))``, differentiable in
    ``params`` (unless first order) and composable with ``torch.func`` transforms.

    Args:
        loss: see `Loss`.
        params: theta, learned step sizes among it if any; the loss does not see the latter.
        supports: one batch of this task for each inner step.
        inner: how to step.

    Returns:
        ``theta_K``, name -> ``shape``, without step sizes.

    Raises:
        InputError: ``supports`` is a batch, not batches; no parameter moves; a step size is
            missing, unused or of the wrong shape.
    """
    return adapt_path_one(loss, params, supports_of(supports), inner)[-1]


def extended_rates(
    theta: Params, inner: InnerLoop, *, trained_steps: int, steps: int, factors: Sequence[float]
) -> tuple[Params, InnerLoop]:
    """Step sizes for evaluating more steps than were trained.

    The first ``trained_steps`` steps keep their rates, learned or fixed; the j-th later one uses
    the last of them times ``factors[j]``, or times the last of the factors. Where none was trained
    the first step has its rate too.

    Returns:
        theta without learned step sizes, and the inner loop that carries them, one a step.

    Raises:
        InputError: ``steps`` is negative, or there is no factor for those beyond the trained ones.
    """
    if steps < 0:
        raise InputError(f"steps is {steps}: it must be at least 0")
    trained_steps = max(trained_steps, 1)
    if steps > trained_steps and not factors:
        raise InputError(
            f"factors is empty: {steps} steps are more than the {trained_steps} trained; give one"
        )
    params, learned = split_rates(theta)
    if steps == 0:
        return params, inner
    names = adapting(params, inner)
    rates = resolve_rates(inner.lr, learned, params, names)
    lr = {}
    for name in names:
        p = params[name]
        each = []
        for k in range(steps):
            rate = rate_at(rates[name], p, min(k, trained_steps - 1))
            rate = torch.as_tensor(rate, dtype=p.dtype, device=p.device).detach()
            # One per tensor is written with the parameter's rank, so that no shape is ambiguous.
            rate = rate.reshape([1] * p.ndim) if rate.ndim == 0 else rate
            later = k - trained_steps
            each.append(rate if later < 0 else rate * factors[min(later, len(factors) - 1)])
        lr[name] = torch.stack(each)
    return params, replace(inner, lr=lr)


def _clipped(gradient: Params, bound: float) -> Params:
    # vector_norm has a zero, not NaN, derivative at 0; the 1e-6 is torch's clip_grad_norm_.
    norms = torch.stack([torch.linalg.vector_norm(g) for g in gradient.values()])
    scale = (bound / (torch.linalg.vector_norm(norms) + 1e-6)).clamp(max=1.0)
    return {name: g * scale for name, g in gradient.items()}
