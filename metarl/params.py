"""Parameters as a value: a dict of tensors, and pure functions of it made from modules."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .elementary import Elementary
from .errors import InputError
from .modules import constant, copy_outside_transforms, held_by, prepare_module, raise_named

Params = dict[str, Tensor]
"""Name -> tensor. Parameters adapted to tasks have one leading task dimension."""

RATE_PREFIX = "inner_lr."
"""Entries of theta with this prefix are learned step sizes; see `split_rates`."""


def split_rates(theta: Params) -> tuple[Params, Params]:
    """Separate the model's parameters from the learned step sizes.

    Learned step sizes are ordinary entries of theta, so that meta-optimisers, the trust region's
    flat vector and checkpoints need nothing special. This is the only code that tells them apart.

    Returns:
        ``params`` and ``lr``, the latter by the name of the parameter it moves.

    Raises:
        InputError: theta is no dict.
    """
    if not isinstance(theta, dict):
        raise InputError(
            f"params is a {type(theta).__name__}: give a dict of name -> tensor, as from_module "
            "returns it"
        )
    params = {n: p for n, p in theta.items() if not n.startswith(RATE_PREFIX)}
    lr = {n.removeprefix(RATE_PREFIX): p for n, p in theta.items() if n.startswith(RATE_PREFIX)}
    return params, lr


def moving(theta: Params) -> list[str]:
    """Names of the entries that a meta-update moves.

    Those that require gradients; where none does, such as in values that were loaded, all.
    """
    return [name for name, p in theta.items() if p.requires_grad] or list(theta)


def from_module(
    module: nn.Module,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Params, Callable[..., Any]]:
    """Split a module into its trainable parameters and a pure function of them.

    The module is copied: later changes to it do not reach the pure function. Frozen parameters
    and buffers are constants of that function; attributes that a call sets are as before after it;
    tied parameters appear once; unused ones get zero gradients. The training flag (dropout) is the
    module's at the time of the call.

    Args:
        module: any ``nn.Module``.
        device: where parameters, frozen parameters and buffers go; None leaves them.
        dtype: floating type of the same; None leaves it.

    Returns:
        ``params``: leaf copies that require gradients, and ``apply(params, *inputs, **kwargs)``.

    Raises:
        InputError: it is no module, has no forward or holds no trainable parameter, or a submodule
            cannot be mapped over tasks or differentiated twice; the message names its path and the
            way out. What shows only when it runs is raised by ``apply``, as are missing or unknown
            parameters.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"from_module takes an nn.Module, not {module!r:.60}")
    module = prepare_module(module, device, dtype)
    params = {
        name: p.detach().clone().requires_grad_()
        for name, p in module.named_parameters()
        if p.requires_grad
    }
    kind, names = type(module).__name__, frozenset(params)  # the dict is the caller's, to extend
    if not params:
        raise InputError(f"{kind} has no parameter that requires gradients")
    if taken := split_rates(params)[1]:
        raise InputError(
            f"{kind} has a parameter {RATE_PREFIX}{min(taken)}, as theta names learned step sizes: "
            f"rename the attribute {RATE_PREFIX.rstrip('.')}"
        )
    if "forward" not in vars(module) and type(module).forward is nn.Module.forward:
        raise InputError(
            f"{kind} has no forward, which apply calls: write one that returns all that the losses "
            "need, such as an agent's logits and value"
        )
    module.requires_grad_(False)
    local = threading.local()

    def apply(params: Params, *inputs: Any, **kwargs: Any) -> Any:
        if params.keys() != names:
            stray = min(params.keys() ^ names)
            is_rate = stray.startswith(RATE_PREFIX)
            rate = "; split_rates(params)[0] leaves the step sizes out" if is_rate else ""
            raise InputError(
                f"{kind} takes exactly the parameters that from_module returned: {stray} is "
                f"{'unknown to it' if stray in params else 'missing'}{rate}"
            )
        if torch.compiler.is_compiling():
            with Elementary():
                return functional_call(module, params, inputs, kwargs)
        # functional_call swaps the module's tensors for a while: each thread needs its own module.
        if not hasattr(local, "module"):
            local.module = copy_outside_transforms(module)
            local.held = held_by(local.module)
        own: nn.Module = local.module
        try:
            with Elementary(), constant(local.held):
                return functional_call(own, params, inputs, kwargs)
        except RuntimeError as error:
            raise_named(error, own, (params, inputs, kwargs))

    return params, apply


def expand_params(params: Params, tasks: int) -> Params:
    """Parameters as ``tasks`` tasks see them before adapting: a view, no copy.

    Args:
        params: name -> ``shape``.
        tasks: number of tasks.

    Returns:
        Name -> ``(tasks, *shape)``, without the learned step sizes.
    """
    return {
        name: p.unsqueeze(0).expand(tasks, *p.shape) for name, p in split_rates(params)[0].items()
    }
