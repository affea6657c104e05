"""Attention of elementary operations, under the signatures of torch's fused one.

The fused one has no second derivative.
"""

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(scale Q K' + mask) V`` by the operations of torch's own unfused form."""
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        # That form is handed masks to be added; it would add the ones of another.
        nothing = torch.zeros_like(attn_mask, dtype=query.dtype)
        attn_mask = nothing.masked_fill(~attn_mask, -torch.inf)
    out: Tensor = torch.ops.aten._scaled_dot_product_attention_math.default(
        query,
        key,
        value,
        attn_mask,
        dropout_p,
        is_causal,
        None,
        scale=scale,
        enable_gqa=enable_gqa,
    )[0]
    return out


def no_nested_tensor(*_: Any) -> bool:
    """Whether padded rows may be packed, which a transformer asks under a mask: vmap cannot."""
    return False


def _by_elementary_attention(fused: Any) -> Callable[..., Any]:
    """The function itself, but calling `attention`, and not dispatched to its caller again."""
    names = {"scaled_dot_product_attention": attention, "has_torch_function": lambda _: False}
    return FunctionType(
        fused.__code__, {**fused.__globals__, **names}, fused.__name__, fused.__defaults__
    )


_multi_head = _by_elementary_attention(functional.multi_head_attention_forward)


def multi_head_attention(*args: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
    """``torch.nn.functional.multi_head_attention_forward`` of elementary operations."""
    if not torch.compiler.is_compiling():
        out: tuple[Tensor, Tensor | None] = _multi_head(*args, **options)
        return out
    # torch.compile cannot follow a copy; the products that give the weights are not fused either,
    # but of a sequence that is padding throughout they are not finite.
    wanted = options["need_weights"]  # torch hands all options over by name
    values, weights = functional.multi_head_attention_forward(
        *args, **{**options, "need_weights": True}
    )
    return values, weights if wanted else None
