"""Fused operations whose second derivatives are wrong, made of elementary ones wherever called.

torch's fused layer, batch and instance norms silently give second derivatives that are wrong by
about a tenth when vmap maps their weights (pytorch/functorch issue 534), and none beyond the second
order. Its weight norm is differentiated once correctly and twice wrongly, mapped or not. An
embedding's padding row, which gets no gradient, gets a second derivative under vmap. Replaced
is the function, not the module, so that it does not matter who calls it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .errors import InputError


class Elementary(TorchFunctionMode):
    """While it is entered, on this thread, the functions above are those of this file."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call ``func``, or what stands for it."""
        chosen: Callable[..., Any] = _ELEMENTARY.get(func, func)
        return chosen(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,  # noqa: A002  (the names are torch's)
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    dims = list(range(-len(normalized_shape), 0))
    return _affine(_normalised(input, dims, eps), weight, bias)


def _batch_norm(
    input: Tensor,  # noqa: A002  (the names are torch's)
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``input (batch, channel, ...)``."""
    del momentum
    if training and running_mean is not None:
        raise InputError(
            "a batch norm updates running statistics in place, which is no function of parameters "
            "and inputs: give it none (moments of the batch at hand), or training=False"
        )
    dims = [d for d in range(input.ndim) if d != 1]
    return _channel_norm(input, running_mean, running_var, weight, bias, dims, eps)


def _instance_norm(
    input: Tensor,  # noqa: A002  (the names are torch's)
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``input (batch, channel, ...)``."""
    del momentum
    stored = (None, None) if use_input_stats else (running_mean, running_var)
    return _channel_norm(input, *stored, weight, bias, list(range(2, input.ndim)), eps)


def _channel_norm(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: list[int],
    eps: float,
) -> Tensor:
    """By the stored moments if there are any, else by those over ``dims``."""

    def spread(p: Tensor | None) -> Tensor | None:
        return None if p is None else p.view(-1, *[1] * (x.ndim - 2))

    mean, var = spread(mean), spread(var)
    if mean is None or var is None:
        x = _normalised(x, dims, eps)
    else:
        x = (x - mean) * torch.rsqrt(var + eps)
    return _affine(x, spread(weight), spread(bias))


def _normalised(x: Tensor, dims: list[int], eps: float) -> Tensor:
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(var + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``g v / |v|``, a norm for each index of ``dim``; of all of ``v`` where that is -1."""
    dims = [d for d in range(v.ndim) if dim == -1 or d != dim % v.ndim]
    norms: Tensor = torch.linalg.vector_norm(v, dim=dims, keepdim=True)
    return v * (g / norms)


def _torch_layer_norm(
    input: Tensor,  # noqa: A002  (the names are torch's)
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    del cudnn_enable
    return _layer_norm(input, normalized_shape, weight, bias, eps)


def _torch_batch_norm(
    input: Tensor,  # noqa: A002  (the names are torch's)
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    del cudnn_enabled
    return _batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _torch_instance_norm(
    input: Tensor,  # noqa: A002  (the names are torch's)
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    del cudnn_enabled
    stored = (running_mean, running_var)
    return _instance_norm(input, *stored, weight, bias, use_input_stats, momentum, eps)


def _embedding(
    input: Tensor,  # noqa: A002  (the names are torch's)
    weight: Tensor,
    padding_idx: int | None = None,
    *options: Any,
    **named: Any,
) -> Tensor:
    """Rows of the weight, that of ``padding_idx`` as a constant."""
    if padding_idx is not None:
        rows = torch.arange(len(weight), device=weight.device).unsqueeze(1)
        weight = torch.where(rows == padding_idx % len(weight), weight.detach(), weight)
    return functional.embedding(input, weight, None, *options, **named)


def _native_norm(*_: Any, **__: Any) -> Tensor:
    raise InputError(
        "torch.native_layer_norm and torch.native_batch_norm have wrong second derivatives here: "
        "call torch.nn.functional.layer_norm and batch_norm"
    )


_ELEMENTARY: dict[Callable[..., Any], Callable[..., Tensor]] = {
    functional.layer_norm: _layer_norm,
    functional.batch_norm: _batch_norm,
    functional.instance_norm: _instance_norm,
    functional.embedding: _embedding,
    torch.layer_norm: _torch_layer_norm,
    torch.batch_norm: _torch_batch_norm,
    torch.instance_norm: _torch_instance_norm,
    torch._weight_norm: _weight_norm,
    torch.native_layer_norm: _native_norm,
    torch.native_batch_norm: _native_norm,
}
