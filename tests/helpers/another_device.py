"""A device where there is none: tensors that say they are elsewhere, and compute on the CPU.

Autograd, ``torch.func`` and Python code see the device's name, and like on a GPU an operation that
takes tensors of both devices fails, and like Apple's it has no float64. What it computes is the
CPU's to the bit.
"""

import contextlib
import sys
from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# Of the devices that torch knows by name, one that autograd accepts without its library.
NAME = "lazy:0"
ELSEWHERE = torch.device(NAME)
# The only operations between devices.
_COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
_PRODUCTS = (
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.convolution.default,
)


class Elsewhere(torch.Tensor):
    """A tensor on that device; ``held`` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "Elsewhere":
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=ELSEWHERE,
        )
        return made

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def __repr__(self, **_: Any) -> str:
        return f"elsewhere {tuple(self.shape)}"

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees operations that no tensor elsewhere takes part in, too: those that make one."""

    def __init__(self) -> None:
        super().__init__()
        self.products_on_the_cpu = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Those of float64, which the device has not, belong to the CPU.
        if op in _PRODUCTS and all(x.is_cpu and x.dtype != torch.float64 for x in args[:2]):
            self.products_on_the_cpu += 1
        return _run(op, args, kwargs or {})


def _run(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    theirs = [x for x in tensors if isinstance(x, Elsewhere)]
    goes = bool(theirs)
    if op is torch.ops.aten.copy_.default:
        goes = isinstance(args[0], Elsewhere)
    if kwargs.get("device") is not None:
        goes = torch.device(kwargs["device"]).type == ELSEWHERE.type
    if goes and "device" in kwargs:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    # Like torch's own devices, they take single numbers from the CPU.
    if theirs and op not in _COPIES and _on_cpu(tensors):
        raise RuntimeError(f"{op} takes tensors of the CPU and of {NAME}")
    held_args, held_kwargs = tree_map(_held, (args, kwargs))
    out = op(*held_args, **held_kwargs)
    if not goes:
        return out
    if any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in tree_leaves(out)):
        raise TypeError(f"{op}: {NAME} has no float64")
    # What an operation changed in place is the tensor it was given.
    known = {id(x.held): x for x in theirs}
    return tree_map(
        lambda x: known.get(id(x), Elsewhere(x)) if isinstance(x, torch.Tensor) else x, out
    )


def _held(x: Any) -> Any:
    return x.held if isinstance(x, Elsewhere) else x


def _on_cpu(tensors: list[torch.Tensor]) -> bool:
    return any(x.ndim > 0 and not isinstance(x, Elsewhere) for x in tensors)


@contextlib.contextmanager
def another_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Mode]:
    """Have a second device, named `NAME`, on this thread."""
    # Fused optimisers ask for a list of names first.
    known = ["cpu", ELSEWHERE.type]
    optimizer = sys.modules["torch.optim.optimizer"]
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: known)
    # Wrapped tensors are not for inference mode.
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    # The mode is this thread's.
    monkeypatch.setattr("metarl.rl.sampler.run_lanes", _one_after_the_other)
    # Numbers become a tensor of the CPU first, which the mode then sees go.
    before = torch._C._only_lift_cpu_tensors()  # type: ignore[attr-defined]
    torch._C._set_only_lift_cpu_tensors(True)  # type: ignore[attr-defined]
    try:
        with _Mode() as mode:
            yield mode
    finally:
        torch._C._set_only_lift_cpu_tensors(before)  # type: ignore[attr-defined]


def _one_after_the_other(run: Any, lanes: int) -> None:
    for lane in range(lanes):
        run(lane, Event())
