"""Modules made fit to be mapped over tasks and differentiated twice, or named where they cannot."""

import contextlib
import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch._C import _functorch
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.utils._pytree import tree_leaves

from .errors import InputError

ONE_TASK_AT_A_TIME = "map one task at a time (mapping='chunk:1' or 'threads')"
_NO_FUNCTION = (
    ", which is no function of parameters and inputs: return the new value instead, or call "
    ".eval() if that stops it"
)


def prepare_module(
    module: nn.Module, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module:
    """A copy on a device and of a type, all of whose parts can be adapted.

    Raises:
        InputError: a part can never be adapted; the message names its path and the way out.
    """
    for path, part in module.named_modules():
        _check_copyable(path or type(module).__name__, part)
    module = copy.deepcopy(module)
    if device is not None:
        module = module.to(device=device)
    if dtype is not None:
        module = module.to(dtype=dtype)
    for path, part in module.named_modules():
        _check_differentiable(path or type(module).__name__, part)
    return module


def copy_outside_transforms(module: nn.Module) -> nn.Module:
    """A copy whose tensors do not belong to the torch.func transforms that surround the call.

    A tensor cloned inside one is of use only until it ends; transforms belong to their thread.
    """
    with ThreadPoolExecutor(1) as elsewhere:
        return elsewhere.submit(copy.deepcopy, module).result()


class Held(NamedTuple):
    """What a module holds beside its parameters.

    Attributes:
        buffers: path, owner, name there and value of every one.
        attributes: each part, and a copy of the dictionary of its attributes.
    """

    buffers: list[tuple[str, nn.Module, str, Tensor | None]]
    attributes: list[tuple[nn.Module, dict[str, Any]]]


def held_by(module: nn.Module) -> Held:
    """What a module holds before it is called."""
    buffers = [
        (".".join(filter(None, (path, name))), part, name, x)
        for path, part in module.named_modules()
        for name, x in part._buffers.items()
    ]
    return Held(buffers, [(part, dict(vars(part))) for part in module.modules()])


@contextlib.contextmanager
def constant(held: Held) -> Iterator[None]:
    """A call of a module that leaves what it holds as it is, see `held_by`.

    Attributes that the call sets, such as a mask that is made once, are taken back silently: a
    tensor made inside a torch.func transform is of no use after it.

    Raises:
        InputError: it gave a buffer another value, in place or as another tensor, which is taken
            back.
    """
    versions = [None if x is None else x._version for *_, x in held.buffers]
    changed = []
    try:
        yield
    finally:
        for part, before in held.attributes:
            now = vars(part)
            if len(now) != len(before) or any(now.get(k) is not x for k, x in before.items()):
                now.clear()
                now.update(before)
        for (path, part, name, x), version in zip(held.buffers, versions, strict=True):
            if part._buffers.get(name) is not x:
                part._buffers[name] = x
                changed.append(path)
            elif x is not None and x._version != version:
                changed.append(path)
    if changed:
        raise InputError(f"the module changes its buffer {changed[0]}{_NO_FUNCTION}")


def raise_named(error: RuntimeError, module: nn.Module, arguments: Any) -> NoReturn:
    """Raise ``error``, of ``module`` called with ``arguments``, with the path of the submodule.

    Raises:
        InputError: the submodule cannot be mapped as asked.
        RuntimeError: ``error`` itself, with a note, where that is not the cause.
    """
    paths = {part: path or type(module).__name__ for path, part in module.named_modules()}
    part, frames = module, error.__traceback__
    while frames is not None:
        owner = frames.tb_frame.f_locals.get("self")
        part = owner if isinstance(owner, nn.Module) and owner in paths else part
        frames = frames.tb_next
    where, said = f"{paths[part]} ({type(part).__name__})", str(error).partition("\n")[0]
    if "mutate a captured Tensor" in said:
        raise InputError(
            f"{where} changes a tensor in place, its input or one of its own{_NO_FUNCTION}"
        ) from error
    mapped = any(_is_mapped(x) for x in tree_leaves(arguments) if isinstance(x, Tensor))
    if mapped and ("vmap" in said or "Batching rule" in said):
        raise InputError(
            f"{where} cannot go through vmap: {ONE_TASK_AT_A_TIME}, or replace it (torch: {said})"
        ) from error
    error.add_note(f"in {where}")
    raise error


def _is_mapped(x: Tensor) -> bool:
    while _functorch.is_functorch_wrapped_tensor(x):
        if _functorch.is_batchedtensor(x):
            return True
        x = _functorch.get_unwrapped(x)
    return False


def _check_copyable(path: str, part: nn.Module) -> None:
    own = {**vars(part), **part._parameters, **part._buffers}
    for name, x in own.items():
        if isinstance(x, Tensor) and nn.parameter.is_lazy(x):
            raise InputError(
                f"{path} ({type(part).__name__}) has no shapes yet: call the module once first"
            )
        if isinstance(x, Tensor) and not x.is_leaf:
            raise InputError(
                f"{path} ({type(part).__name__}) keeps {name}, the result of a computation, which "
                "cannot be copied: detach it, or use torch.nn.utils.parametrizations"
            )


def _check_differentiable(path: str, part: nn.Module) -> None:
    kind = f"{path} ({type(part).__name__})"
    if isinstance(part, nn.modules.batchnorm._NormBase):
        if part.track_running_stats and part.training:
            raise InputError(
                f"{kind} updates running statistics in place, which cannot be mapped over tasks: "
                "build it with track_running_stats=False, or turn a finished model into such by "
                "torch.func.replace_all_batch_norm_modules_ (moments of the batch at hand), or "
                "call .eval() to use its stored statistics"
            )
    elif isinstance(part, _SpectralNorm):
        if part.training:
            raise InputError(
                f"{kind} goes on with its power iteration at every call, which is no function of "
                "parameters and inputs: call .eval() to use its singular vectors as they are"
            )
    elif isinstance(part, nn.EmbeddingBag):
        raise InputError(
            f"{kind} has no second derivative: use nn.Embedding and sum or average over the bag"
        )
    elif isinstance(part, nn.Embedding) and part.sparse:
        raise InputError(
            f"{kind} has sparse gradients, which have no second derivative: use sparse=False"
        )
    elif isinstance(part, nn.Embedding) and part.max_norm is not None:
        raise InputError(
            f"{kind} renormalises its weight in place: use max_norm=None and normalise the output"
        )
