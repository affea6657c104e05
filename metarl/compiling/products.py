"""How compiled programs multiply matrices: as is fastest, by the library that is."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule, Node

from .linear import onednn_present

# Numbers up to which a product with a vector gains by fusing with what surrounds it.
_SMALL = 16_384
# Columns of a product below which MKL takes up to ten times as long as for its transpose.
_FEW = 16
# Multiply-adds from which on oneDNN's preparations are repaid.
_LARGE = 1_000_000


def use_onednn(graph: GraphModule) -> None:
    """Replace the large products of a traced graph, which is not to be differentiated further."""
    if not onednn_present():
        return
    rows: dict[tuple[Node, bool], Node] = {}
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.mm.default:
            a, b = node.args
            if _large(_value(a), _value(b)):
                node.replace_all_uses_with(_product(node, a, b, rows))
        if node.target is torch.ops.aten.addmm.default and not node.kwargs:
            c, a, b = node.args
            if _value(c).shape == _value(b).shape[1:] and _large(_value(a), _value(b)):
                node.replace_all_uses_with(_product(node, a, b, rows, c))
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _narrow_product(a: Tensor, b: Tensor) -> Any:
    """Outer products and small ones with a vector as sums that fuse; few columns as ``(B'A')'``."""
    if a.shape[1] == 1:
        return a * b
    if b.shape[1] == 1 and a.numel() <= _SMALL:
        return (a * b.t()).sum(1, keepdim=True)
    if a.shape[0] == 1 and b.numel() <= _SMALL:
        return (a.t() * b).sum(0, keepdim=True)
    few = 1 < b.shape[1] < _FEW <= a.shape[0]
    if few and a.device.type == "cpu" and not _left_to_onednn(a, b):
        # Where both operands would be transposed, which is slow again, the small one is copied.
        columns = b.t().contiguous() if a.is_contiguous() else b.t()
        return torch.mm(columns, a.t()).t().contiguous()
    return NotImplemented


def _biased_product(c: Tensor, a: Tensor, b: Tensor, **scales: Any) -> Any:
    """``A B + c`` as a product and a sum, which fuses with what follows, such as an activation."""
    if scales or a.device.type != "cpu" or _left_to_onednn(a, b):
        return NotImplemented
    return torch.mm(a, b) + c


def _batch_product(a: Tensor, b: Tensor) -> Any:
    """``A'B' = (BA)'``: two transposed batches take MKL five times as long."""
    if all(x.stride(1) == 1 and x.stride(2) > 1 and min(x.shape) > 1 for x in (a, b)):
        return torch.bmm(b.transpose(1, 2), a.transpose(1, 2)).transpose(1, 2).contiguous()
    return NotImplemented


PRODUCTS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.mm.default: _narrow_product,
    torch.ops.aten.addmm.default: _biased_product,
    torch.ops.aten.bmm.default: _batch_product,
}
"""How products are recorded, ``NotImplemented`` being as they are."""


def _value(node: Node) -> Tensor:
    value: Tensor = node.meta["val"]
    return value


def _left_to_onednn(a: Tensor, b: Tensor) -> bool:
    return onednn_present() and not torch.is_grad_enabled() and _large(a, b)


def _large(a: Tensor, b: Tensor) -> bool:
    on_cpu = a.device.type == "cpu" and a.dtype is b.dtype is torch.float32
    return on_cpu and a.shape[0] * b.numel() >= _LARGE


def _product(
    node: Node, a: Node, b: Node, rows: dict[tuple[Node, bool], Node], bias: Node | None = None
) -> Node:
    """``a b + bias``, put before the node."""
    with node.graph.inserting_before(node):
        if bias is None and _value(a).stride(0) == 1 and _value(b).shape[1] < _value(a).shape[0]:
            # oneDNN crawls where a weight's gradient has few columns; its transpose has few rows.
            return _copied(_transposed(_linear(_in_rows(_transposed(b), rows), a, None)))
        return _linear(_in_rows(a, rows), _transposed(b), bias)


def _transposed(a: Node) -> Node:
    if a.target is torch.ops.aten.t.default:
        source = a.args[0]
        assert isinstance(source, Node)
        return source
    return _call(torch.ops.aten.t.default, a)


def _in_rows(a: Node, rows: dict[tuple[Node, bool], Node]) -> Node:
    """``a`` in rows, as oneDNN would copy it first; here once, and by the compiler in passing."""
    if _value(a).is_contiguous():
        return a
    is_view = a.target is torch.ops.aten.t.default
    key = (_transposed(a), True) if is_view else (a, False)
    if key not in rows:
        rows[key] = _copied(a)
    return rows[key]


def _copied(a: Node) -> Node:
    """In the layout that a product has: what follows may view it as another shape."""
    return _call(torch.ops.aten.clone.default, a, memory_format=torch.contiguous_format)


def _linear(x: Node, weight: Node, bias: Node | None) -> Node:
    return _call(torch.ops.metarl.linear.default, x, weight, bias)


def _call(target: Any, *args: Node | None, **options: Any) -> Node:
    like = next(x for x in args if x is not None)
    node = like.graph.call_function(target, args, options)
    with FakeTensorMode():
        node.meta["val"] = target(
            *(None if x is None else _like(_value(x)) for x in args), **options
        )
    return node


def _like(x: Tensor) -> Tensor:
    # Each recorded value is of a fake mode of its own, which do not mix.
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
