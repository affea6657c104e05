"""Fused operations that are not mapped or differentiated right, made of elementary ones.

Replaced is the function, not the module, so that it does not matter who calls it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from . import attention, norms
from .recurrence import RECURRENT


class Elementary(TorchFunctionMode):
    """While it is entered, on this thread, fused functions are those listed below."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call ``func``, or what stands for it."""
        chosen: Callable[..., Any] = _ELEMENTARY.get(func, func)
        return chosen(*args, **(kwargs or {}))


def _embedding(
    input: Tensor,  # noqa: A002  (the names are torch's)
    weight: Tensor,
    padding_idx: int | None = None,
    *options: Any,
    **named: Any,
) -> Tensor:
    """Rows of the weight, that of ``padding_idx`` as a constant.

    torch gives it no gradient, but under vmap a second derivative.
    """
    if padding_idx is not None:
        rows = torch.arange(len(weight), device=weight.device).unsqueeze(1)
        weight = torch.where(rows == padding_idx % len(weight), weight.detach(), weight)
    return functional.embedding(input, weight, None, *options, **named)


_ELEMENTARY: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.layer_norm: norms.layer_norm,
    functional.batch_norm: norms.batch_norm,
    functional.instance_norm: norms.instance_norm,
    functional.embedding: _embedding,
    functional.multi_head_attention_forward: attention.multi_head_attention,
    functional.scaled_dot_product_attention: attention.attention,
    torch.layer_norm: norms.torch_layer_norm,
    torch.batch_norm: norms.torch_batch_norm,
    torch.instance_norm: norms.torch_instance_norm,
    torch._weight_norm: norms.weight_norm,
    torch._nested_tensor_from_mask_left_aligned: attention.no_nested_tensor,
    torch.native_layer_norm: norms.native_norm,
    torch.native_batch_norm: norms.native_norm,
    **RECURRENT,
}
