"""How a function of one task is mapped over all tasks: in one vmap, in chunks, on threads.

A *chunk function* takes what all tasks share and the data of some tasks; a mapping says how many
tasks make a chunk and who runs the chunks. Sums are taken in task order, so that the result
depends on the mapping only as far as floating-point addition does.

With ``+compile`` a chunk function is recorded at its first call with each set of shapes, and the
record is what runs from then on: losses must be pure, see `metarl.Loss`.
"""

import contextlib
import enum
import functools
import itertools
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .compiling import Ready, compile_chunks, compiler_present
from .elementary import Elementary
from .errors import InputError
from .modules import ONE_TASK_AT_A_TIME
from .threads import map_on_threads, one_intra_op_thread
from .trees import leaves

T = TypeVar("T")
R = TypeVar("R")
ChunkFunction = Callable[[Any, Any], Any]
"""``chunk_function(shared, data)``, data with a leading dimension of the chunk's tasks."""

# Above this many numbers of data a task, one task's activations leave the cache when all tasks
# go through the network at once, and separate chains on threads win.
_LARGE_TASK = 16_384

_FIXED_SHAPES = (
    "all tasks go through a loss at once: use torch.where for if, and weights of 0 for a mask"
)

# What a batch may hold; anything else might have numbers of single tasks inside.
_WORDS = (str, bytes, type(None), enum.Enum, torch.dtype, torch.device)
_PLAIN = (Tensor, numbers.Number, np.generic, *_WORDS)


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


def count_tasks(data: Any) -> int:
    """The common leading dimension of all tensors in ``data``.

    Raises:
        InputError: there is none, it differs between tensors, or a leaf may hide numbers, as an
            array or any other object does.
    """
    given = leaves(data)
    for x in given:
        if not isinstance(x, _PLAIN):
            raise InputError(
                f"a batch holds an object of type {type(x).__name__}, which every task would get "
                "whole: use tensors, and plain numbers and words that all share, in tuples, lists, "
                "dicts or NamedTuples"
            )
    sizes = {x.shape[0] if x.ndim else None for x in given if isinstance(x, Tensor)}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        raise InputError(
            "the batches of a meta-batch need one common leading task dimension, got "
            f"{sorted(str(s) for s in sizes) or 'no tensors'} (a number that all tasks share goes "
            "as a Python number, or, if compiled and changing, as a tensor with one entry a task)"
        )
    (size,) = sizes
    assert size is not None
    return size


def each(fn: Callable[[Any, Any], Any]) -> ChunkFunction:
    """``fn(shared, one task's data)`` as a chunk function with outputs stacked over tasks."""

    def one(shared: Any, data: Any) -> Any:
        with Elementary():
            return fn(shared, data)

    def run(shared: Any, data: Any) -> Any:
        if count_tasks(data) == 1:
            # A plain chain, without the detours of vmap.
            out = one(shared, tree_map(lambda x: x[0] if isinstance(x, Tensor) else x, data))
            return tree_map(lambda x: x.unsqueeze(0), out)
        dims = tree_map(lambda x: 0 if isinstance(x, Tensor) else None, data)
        mapped = torch.func.vmap(
            functools.partial(one, shared), in_dims=(dims,), randomness="different"
        )
        try:
            return mapped(data)
        except RuntimeError as error:
            if "vmap" in str(error):
                error.add_note(f"{_FIXED_SHAPES}, or {ONE_TASK_AT_A_TIME}")
            raise

    return run


def run_chunks(
    run: ChunkFunction,
    shared: Any,
    data: Any,
    mapping: Mapping,
    *,
    compiler: Callable[..., tuple[ChunkFunction, Ready]] = compile_chunks,
    gather: Callable[[Iterable[Any]], Any] = list,
) -> Any:
    """Apply a chunk function to all tasks.

    Args:
        run: the chunk function; compiled when the mapping says so. Pass the same function object
            each time, or it is compiled each time.
        shared: first argument of every call.
        data: tensors with a leading task dimension, in any nesting of tuples and dicts.
        mapping: a definite mapping, see `resolve_mapping`.
        compiler: `compile_chunks`, or `compile_products` for outputs that are functions.
        gather: takes the outputs, one a chunk and in task order, as they come; see
            `metarl.reduction.sum_in_order`.

    Returns:
        What ``gather`` makes of them: their list.
    """
    tasks = count_tasks(data)
    size = mapping.chunk_size(tasks)
    ready: Ready = _always
    if mapping.compile:
        run, ready = compiler(run, threaded=mapping.kind == "threads")
    if size is None:
        return gather([run(shared, data)])
    chunks = [
        tree_map(lambda x, i=i: x[i : i + size] if isinstance(x, Tensor) else x, data)
        for i in range(0, tasks, size)
    ]
    # A chunk whose program has to be built runs alone, so that one thread only enters the compiler,
    # and it compiles for the one intra-op thread that workers have.
    alone = one_intra_op_thread if mapping.kind == "threads" else contextlib.nullcontext
    with alone():
        first = 0 if ready(shared, chunks[0]) else 1
        done = [run(shared, chunk) for chunk in chunks[:first]]
    return map_items(
        lambda chunk: run(shared, chunk),
        chunks[first:],
        mapping,
        gather=lambda rest: gather(itertools.chain(done, rest)),
    )


def _always(shared: Any, data: Any) -> bool:
    return True


def map_items(
    fn: Callable[[T], R],
    items: Sequence[T],
    mapping: Mapping,
    *,
    gather: Callable[[Iterable[R]], Any] = list,
) -> Any:
    """``gather(fn(item) for item in items)``, on worker threads if the mapping says so."""
    if mapping.kind == "threads":
        return map_on_threads(fn, items, gather)
    return gather(map(fn, items))
