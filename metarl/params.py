"""Parameters as a value: a dict of tensors, and pure functions of it made from modules."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .errors import InputError

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
    """
    params = {n: p for n, p in theta.items() if not n.startswith(RATE_PREFIX)}
    lr = {n.removeprefix(RATE_PREFIX): p for n, p in theta.items() if n.startswith(RATE_PREFIX)}
    return params, lr


def from_module(
    module: nn.Module,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Params, Callable[..., Any]]:
    """Split a module into its trainable parameters and a pure function of them.

    The module is copied: later changes to it do not reach the pure function. Frozen parameters
    and buffers are constants of that function; tied parameters appear once; unused ones get zero
    gradients. The training flag (dropout) is the module's at the time of the call.

    Args:
        module: any ``nn.Module``.
        device: where parameters, frozen parameters and buffers go; None leaves them.
        dtype: floating type of the same; None leaves it.

    Returns:
        ``params``: leaf copies that require gradients, and ``apply(params, *inputs, **kwargs)``.

    Raises:
        InputError: the module holds no trainable parameter, or a submodule cannot be mapped over
            tasks or differentiated twice; the message names its path and the way out.
    """
    module = copy.deepcopy(module)
    # `to(dtype=None)` is not accepted together with a device by every release.
    if device is not None:
        module = module.to(device=device)
    if dtype is not None:
        module = module.to(dtype=dtype)
    for path, part in module.named_modules():
        _check_mappable(path or type(module).__name__, part)
    params = {
        name: p.detach().clone().requires_grad_()
        for name, p in module.named_parameters()
        if p.requires_grad
    }
    if not params:
        raise InputError(f"{type(module).__name__} has no parameter that requires gradients")
    module.requires_grad_(False)
    local = threading.local()

    def apply(params: Params, *inputs: Any, **kwargs: Any) -> Any:
        # functional_call swaps the module's tensors for a while: each thread needs its own module.
        own = module if torch.compiler.is_compiling() else local.__dict__.get("module")
        if own is None:
            own = local.module = copy.deepcopy(module)
        return functional_call(own, params, inputs, kwargs)

    return params, apply


def _check_mappable(path: str, part: nn.Module) -> None:
    running = getattr(part, "track_running_stats", False) and part.training
    if running and isinstance(part, nn.modules.batchnorm._NormBase):
        raise InputError(
            f"{path} ({type(part).__name__}) updates running statistics in place, which cannot be "
            "mapped over tasks: build it with track_running_stats=False (moments of the batch at "
            "hand), or call .eval() to use its stored statistics"
        )
    if isinstance(part, nn.RNNBase):
        on_gpu = any(p.is_cuda for p in part.parameters())
        if on_gpu and torch.backends.cudnn.enabled:
            raise InputError(
                f"{path} ({type(part).__name__}) runs on cuDNN, which has no second derivative: "
                "set torch.backends.cudnn.enabled = False, or unroll a cell (nn.LSTMCell, "
                "nn.GRUCell) in Python"
            )


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
