"""Matrix products of compiled programs, by the library that is fastest on this machine.

torch multiplies float32 matrices on CPUs by MKL, which leaves AVX-512 unused on some makers'
processors; oneDNN, also part of torch, uses it wherever it is there.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

# Numbers up to which a product with a vector gains by fusing with what surrounds it.
_SMALL = 16_384
# Multiply-adds from which on oneDNN's preparations are repaid.
_LARGE = 1_000_000

_library = torch.library.Library("metarl", "DEF")  # type: ignore[no-untyped-call]
_library.define("mm(Tensor a, Tensor b) -> Tensor")  # type: ignore[no-untyped-call]
_library.define("addmm(Tensor c, Tensor a, Tensor b) -> Tensor")  # type: ignore[no-untyped-call]


@functools.cache
def onednn_present() -> bool:
    """Whether torch has oneDNN's products here, and they are the faster ones."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


def use_onednn(graph: GraphModule) -> None:
    """Replace the large products of a traced graph, which is not to be differentiated further."""
    if not onednn_present():
        return
    copies: dict[tuple[Node, bool], Node] = {}
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.mm.default and _large(*_values(node)):
            node.target = torch.ops.metarl.mm.default
            if not _transposed(*_values(node)):
                a, b = node.args
                node.args = (_in_rows(a, copies), b)
        if node.target is torch.ops.aten.addmm.default and not node.kwargs:
            c, a, b = _values(node)
            if c.shape == b.shape[1:] and _large(a, b):
                node.target = torch.ops.metarl.addmm.default
    graph.recompile()


def _small_product(a: Tensor, b: Tensor) -> Any:
    """Outer products and small ones with a vector as sums, which the compiler fuses."""
    if a.shape[1] == 1:
        return a * b
    if b.shape[1] == 1 and a.numel() <= _SMALL:
        return (a * b.t()).sum(1, keepdim=True)
    if a.shape[0] == 1 and b.numel() <= _SMALL:
        return (a.t() * b).sum(0, keepdim=True)
    return NotImplemented


def _batch_product(a: Tensor, b: Tensor) -> Any:
    """``A'B' = (BA)'``: two transposed batches take MKL five times as long."""
    if all(x.stride(1) == 1 and x.stride(2) > 1 and min(x.shape) > 1 for x in (a, b)):
        return torch.bmm(b.transpose(1, 2), a.transpose(1, 2)).transpose(1, 2)
    return NotImplemented


SMALL_PRODUCTS = {
    torch.ops.aten.mm.default: _small_product,
    torch.ops.aten.bmm.default: _batch_product,
}
"""How products are recorded, ``NotImplemented`` being as they are."""


def _in_rows(a: Node, copies: dict[tuple[Node, bool], Node]) -> Node:
    """``a`` in rows, as oneDNN would copy it first; here once, and by the compiler in passing."""
    value: Tensor = a.meta["val"]
    if value.is_contiguous():
        return a
    transposed = a.target is torch.ops.aten.t.default
    source = a.args[0] if transposed else a
    assert isinstance(source, Node)
    key = (source, transposed)
    if key not in copies:
        rows: dict[str, Any] = {"memory_format": torch.contiguous_format}
        with a.graph.inserting_after(a):
            copies[key] = a.graph.call_function(torch.ops.aten.clone.default, (a,), rows)
        copies[key].meta["val"] = value.clone(**rows)
    return copies[key]


def _values(node: Node) -> list[Tensor]:
    return [x.meta["val"] for x in node.args if isinstance(x, Node)]


def _large(a: Tensor, b: Tensor) -> bool:
    on_cpu = a.device.type == "cpu" and a.dtype is b.dtype is torch.float32
    return on_cpu and a.shape[0] * b.numel() >= _LARGE


def _transposed(a: Tensor, b: Tensor) -> bool:
    # oneDNN crawls where a weight's gradient has few columns; its transpose has few rows.
    return a.stride(0) == 1 and b.shape[1] < a.shape[0]


def _linear(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(a, b.t(), c, "none", [], "")
    return product


@torch.library.impl(_library, "mm", "CPU")
def _mm(a: Tensor, b: Tensor) -> Tensor:
    return _linear(b.t(), a.t()).t() if _transposed(a, b) else _linear(a, b)


@torch.library.impl(_library, "addmm", "CPU")
def _addmm(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return _linear(a, b, c)


@torch.library.register_fake("metarl::mm")  # type: ignore[untyped-decorator]
def _mm_shape(a: Tensor, b: Tensor) -> Tensor:
    shape = a.shape[0], b.shape[1]
    return a.new_empty(shape[::-1]).t() if _transposed(a, b) else a.new_empty(shape)


@torch.library.register_fake("metarl::addmm")  # type: ignore[untyped-decorator]
def _addmm_shape(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])
