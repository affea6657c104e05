"""Worker threads for chains of tasks, which leave torch's own threads idle."""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_local = threading.local()


def map_on_threads(
    fn: Callable[[T], R], items: Sequence[T], gather: Callable[[Iterable[R]], Any]
) -> Any:
    """``gather(fn(item) for item in items)``, with as many workers as torch has threads."""
    workers = torch.get_num_threads()
    if min(workers, len(items)) <= 1:
        return gather(map(fn, items))
    grad, here = torch.is_grad_enabled(), callers_device()

    def work(item: T) -> R:
        _local.worker = True
        # Set here, not when a worker starts: that may be after the caller has set its own again.
        torch.set_num_threads(1)
        # Worker threads start with gradients enabled whatever the caller's mode.
        with torch.set_grad_enabled(grad), here():
            return fn(item)

    with one_intra_op_thread():
        return gather(_pool(workers, os.getpid()).map(work, items))


def callers_device() -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """What a thread enters to make tensors where the calling one does, in the same CUDA stream.

    Torch keeps its default device and its current stream for each thread.
    """
    device = torch.get_default_device()
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    stream = torch.cuda.current_stream() if started else None

    @contextlib.contextmanager
    def enter() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if device.type != "cpu":  # which is every thread's, and a mode costs time at each call
                stack.enter_context(device)
            if stream is not None:
                stack.enter_context(torch.cuda.stream(stream))
            yield

    return enter


def on_worker() -> bool:
    """Whether the calling thread is one of `map_on_threads`."""
    return getattr(_local, "worker", False)


@contextlib.contextmanager
def one_intra_op_thread() -> Iterator[None]:
    """Run torch operations on the calling thread alone, so that worker threads own the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@functools.cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Worker threads of this process (a forked child must not use its parent's).

    They start as items come, so that a pool of all serves a few too.
    """
    return ThreadPoolExecutor(workers, thread_name_prefix="tasks")
