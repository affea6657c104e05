"""Norms of elementary operations, under the signatures of torch's fused ones.

torch's layer, batch and instance norms silently give second derivatives that are wrong by about a
tenth when vmap maps their weights (pytorch/functorch issue 534), and none beyond the second order.
Its weight norm is differentiated once correctly and twice wrongly, mapped or not.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

_IN_PLACE = (
    "the norm of {} updates running statistics in place, which is no function of parameters and "
    "inputs: give it none (moments of the batch at hand), or stored moments alone"
)


def layer_norm(
    input: Tensor,  # noqa: A002  (the names are torch's)
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Over the last dimensions, those of ``normalized_shape``."""
    shape = tuple(normalized_shape)
    last = tuple(input.shape[max(0, input.ndim - len(shape)) :])
    for told in (last, *(tuple(p.shape) for p in (weight, bias) if p is not None)):
        if told != shape:
            raise InputError(
                f"a layer norm over {shape} of an input {tuple(input.shape)}: the input's last "
                "dimensions, the weight and the bias have to be of this shape"
            )
    dims = list(range(-len(shape), 0))
    return _affine(_normalised(input, dims, eps), weight, bias)


def batch_norm(
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
        raise InputError(_IN_PLACE.format("a batch"))
    if not training:
        _check_stored(running_mean, running_var)
    dims = [d for d in range(input.ndim) if d != 1]
    if running_mean is None:
        _check_several(input, dims)
    return _channel_norm(input, running_mean, running_var, weight, bias, dims, eps)


def instance_norm(
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
    if use_input_stats and running_mean is not None:
        raise InputError(_IN_PLACE.format("an instance"))
    if not use_input_stats:
        _check_stored(running_mean, running_var)
    dims = list(range(2, input.ndim))
    if use_input_stats:
        _check_several(input, dims)
    return _channel_norm(input, running_mean, running_var, weight, bias, dims, eps)


def _check_stored(mean: Tensor | None, var: Tensor | None) -> None:
    if mean is None or var is None:
        raise InputError(
            "a norm that does not take the moments of its input needs running_mean and running_var"
        )


def _check_several(x: Tensor, dims: list[int]) -> None:
    """Refuse, like torch, moments of single values, which leave nothing of them."""
    if math.prod(x.shape[d] for d in dims) == 1:
        raise InputError(
            f"a norm over one value of each channel, of an input {tuple(x.shape)}, gives 0 "
            "whatever the value: give it more"
        )


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
        if p is not None and p.shape != (x.shape[1],):
            raise InputError(
                f"a norm of {x.shape[1]} channels, of an input {tuple(x.shape)}, has moments or "
                f"weights {tuple(p.shape)}: one a channel is needed"
            )
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
    y = x if weight is None else x * weight
    y = y if bias is None else y + bias
    return y.to(x.dtype)  # like torch's, where weights are of a wider type


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``g v / |v|``, a norm for each index of ``dim``; of all of ``v`` where that is -1."""
    dims = [d for d in range(v.ndim) if dim == -1 or d != dim % v.ndim]
    # No dimensions would mean all to vector_norm.
    norms: Tensor = torch.linalg.vector_norm(v, dim=dims, keepdim=True) if dims else v.abs()
    return v * (g / norms)


def torch_layer_norm(
    input: Tensor,  # noqa: A002  (the names are torch's)
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """`layer_norm` under the signature of ``torch.layer_norm``."""
    del cudnn_enable
    return layer_norm(input, normalized_shape, weight, bias, eps)


def torch_batch_norm(
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
    """`batch_norm` under the signature of ``torch.batch_norm``."""
    del cudnn_enabled
    return batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def torch_instance_norm(
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
    """`instance_norm` under the signature of ``torch.instance_norm``."""
    del cudnn_enabled
    stored = (running_mean, running_var)
    return instance_norm(input, *stored, weight, bias, use_input_stats, momentum, eps)


def native_norm(*_: Any, **__: Any) -> Tensor:
    """Refuse what returns moments as well."""
    raise InputError(
        "torch.native_layer_norm and torch.native_batch_norm have wrong second derivatives here: "
        "call torch.nn.functional.layer_norm and batch_norm"
    )
