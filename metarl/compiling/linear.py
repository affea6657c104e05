"""oneDNN's product of float32 matrices, as an operation of compiled programs.

torch multiplies float32 matrices on CPUs by MKL, which leaves AVX-512 unused on some makers'
processors; oneDNN, also part of torch, uses it wherever it is there.
"""

import functools
from typing import Any

import torch
from torch import Tensor

_library = torch.library.Library("metarl", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor"
)


@functools.cache
def onednn_present() -> bool:
    """Whether torch has oneDNN's products here, and they are the faster ones."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


@torch.library.impl(_library, "linear", "CPU")
def _linear_on_cpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
    return product


@torch.library.register_fake("metarl::linear")  # type: ignore[untyped-decorator]
def _linear_shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@functools.cache
def lower_linear() -> None:
    """Have compiled programs call oneDNN themselves.

    Through the implementation above they would enter the interpreter, for which threads queue.
    """
    from torch._inductor.ir import ExternKernel, TensorBox
    from torch._inductor.lowering import register_lowering
    from torch._inductor.mkldnn_ir import LinearUnary

    class Linear(LinearUnary):
        @classmethod
        def require_contiguous(cls, x: Any) -> Any:
            return x  # the weights' copy: oneDNN takes them in columns as well

    def lowered(x: Any, weight: Any, bias: Any) -> Any:
        rows = ExternKernel.require_contiguous(ExternKernel.realize_input(x))
        made = Linear.create(rows, weight, bias, "none", [], "")  # type: ignore[no-untyped-call]
        return TensorBox.create(made)

    register_lowering(torch.ops.metarl.linear.default, type_promotion_kind=None)(lowered)
