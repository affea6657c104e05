"""How a function of one task is mapped over all tasks: in one vmap, in chunks, on threads."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .compiling import compiler_present
from .errors import InputError
from .task_dimension import count_tasks
from .trees import leaves

# Above this many numbers of data a task, one task's activations leave the cache when all tasks
# go through the network at once, and separate chains on threads win.
_LARGE_TASK = 16_384


class Mapping(NamedTuple):
    """A mapping taken apart; its text form is what functions take and config files hold.

    Attributes:
        kind: ``vmap`` (all tasks at once), ``chunk`` (several at a time) or ``threads`` (chains
            of single tasks on worker threads).
        chunk: tasks in a chunk, for ``chunk``.
        compile: whether chunk functions are compiled.
    """

    kind: Literal["auto", "vmap", "chunk", "threads"]
    chunk: int
    compile: bool

    def chunk_size(self, tasks: int) -> int | None:
        """Tasks in a chunk; None where all go at once. Only of a definite mapping."""
        size = {"vmap": tasks, "chunk": self.chunk, "threads": 1}[self.kind]
        return size if size < tasks else None

    def __str__(self) -> str:
        kind = f"chunk:{self.chunk}" if self.kind == "chunk" else self.kind
        return f"{kind}+compile" if self.compile else kind


def parse_mapping(text: str | Mapping) -> Mapping:
    """Read ``auto | vmap | chunk:N | threads``, each perhaps followed by ``+compile``.

    One that was read already stays as it is.

    Raises:
        InputError: anything else.
    """
    if isinstance(text, Mapping):
        return text
    kind, plus, suffix = text.partition("+")
    name, colon, number = kind.partition(":")
    # Python reads no number of thousands of digits, and nobody has as many tasks.
    counts = number.isdecimal() and len(number) < 19 and int(number) > 0
    valid = (name == "chunk" and counts) or (name in ("auto", "vmap", "threads") and not colon)
    if not valid or (plus and suffix != "compile"):
        raise InputError(
            f"mapping is {text[:40]!r}: use auto, vmap, chunk:N or threads, perhaps with +compile"
        )
    return Mapping(name, int(number or 0), bool(plus))  # type: ignore[arg-type]


def resolve_mapping(text: str | Mapping, data: Any) -> Mapping:
    """Make ``auto`` definite: a pure function of shapes, device and compiler.

    It is ``vmap``, but on the CPU for several tasks of at least 16 384 numbers each: there
    ``threads`` where they are compiled, as many as ``torch.get_num_threads()``, else ``chunk:1``.

    Args:
        text: see `parse_mapping`. Where no compiler is present, and inside ``torch.func``
            transforms, which a program cannot be differentiated by, ``+compile`` is dropped.
        data: tensors with a leading task dimension.

    Returns:
        What stands for it; its ``str`` is what functions take and configurations hold.

    Raises:
        InputError: no mapping of that name, threads inside a ``torch.func`` transform, or threads
            or ``+compile`` under ``torch.autocast``.
    """
    mapping = parse_mapping(text)
    if autocast_active() and (mapping.kind == "threads" or mapping.compile):
        raise InputError(
            f"mapping {text!r} does not see torch.autocast, whose state stays on the calling "
            "thread and out of compiled programs: use vmap or chunk:N, or cast params and data"
        )
    transformed = torch._C._functorch.maybe_current_level() is not None
    compiles = mapping.compile and not transformed and compiler_present()
    mapping = mapping._replace(compile=compiles)
    if mapping.kind == "threads" and transformed:
        raise InputError(
            "mapping 'threads' cannot run inside torch.func transforms, whose state stays on the "
            "calling thread: use mapping='vmap' there"
        )
    if mapping.kind == "auto":
        tensors = [x for x in leaves(data) if isinstance(x, Tensor)]
        tasks = count_tasks(data)
        large = sum(x.numel() for x in tensors) >= tasks * _LARGE_TASK
        # Tensors without numbers stand for those of the CPU.
        on_cpu = all(x.device.type in ("cpu", "meta") for x in tensors)
        if not (large and on_cpu and tasks > 1):
            mapping = mapping._replace(kind="vmap")
        elif mapping.compile:
            mapping = mapping._replace(kind="threads")
        else:
            # Uncompiled chains hold the interpreter lock too much to gain from threads.
            mapping = mapping._replace(kind="chunk", chunk=1)
    return mapping


def autocast_active() -> bool:
    """Whether ``torch.autocast`` is on for any device, on this thread."""
    return torch._C._is_any_autocast_enabled()
