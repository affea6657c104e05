"""The machine's peak: plain float32 matrix products of the size of a task's layer."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from metarl.compiling import onednn_present

CALLS = 20


def products(rows: int, width: int) -> dict[str, tuple[Callable[[], object], float]]:
    """Name -> what multiplies ``(rows, width)`` by ``(width, width)``, and its operations.

    ``mm`` is ``torch.mm``; ``onednn``, where it is there, the library of that name.
    """
    x, w = torch.randn(rows, width), torch.randn(width, width)
    out = torch.empty(rows, width)
    operations = 2.0 * CALLS * rows * width * width

    def by_mm() -> None:
        for _ in range(CALLS):
            torch.mm(x, w, out=out)

    def by_onednn() -> None:
        for _ in range(CALLS):
            torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")

    found: dict[str, tuple[Callable[[], object], float]] = {"mm": (by_mm, operations)}
    if onednn_present():
        found["onednn"] = (by_onednn, operations)
    return found


def operations_of(run: Callable[[], Tensor | object]) -> float:
    """Additions and multiplications in the matrix products of a call, uncompiled."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())
