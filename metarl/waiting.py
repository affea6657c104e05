"""Waiting for the other ranks, and finding out which is at fault when they do not come."""

import contextlib
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from .errors import RankError

# Python handles no signal while it waits, and a rank learns of others' trouble after so long.
_SLICE_SECONDS = 0.5
# The last operation, with its tensors. Gloo's thread lets go of them a moment after the work is
# done: if nobody else held them then, it would need the interpreter lock, and a process that is
# just ending would abort.
_last: list[Any] = []


def wait(begin: Callable[[Any], Any], rank: int, size: int, timeout: float, store: Any) -> None:
    """Begin a collective operation of ``size`` ranks and wait for it.

    Args:
        begin: takes ``torch.distributed``, returns the work begun.
        rank: of this process.
        timeout: seconds.
        store: what ranks leave notes in when they fail.

    Raises:
        RankError: another rank failed, died, or gave no answer in time; it says which.
    """
    import torch.distributed as dist

    until = time.monotonic() + timeout
    try:
        work = begin(dist)
    except RuntimeError as error:
        raise _failure(rank, size, timeout, store, lost=True) from error
    _last[:] = [begin, work]
    while True:
        try:
            work.wait(timedelta(seconds=_SLICE_SECONDS))
            return
        except RuntimeError as error:
            late = time.monotonic() > until
            if work.is_completed() or late or _trouble(store):
                raise _failure(rank, size, timeout, store, lost=not late) from error


def _trouble(store: Any) -> bool:
    try:
        return bool(store.check(["trouble"]))
    except RuntimeError:  # the launcher has gone, and the store with it
        return False


def _failure(rank: int, size: int, timeout: float, store: Any, *, lost: bool) -> RankError:
    """Which rank is at fault: one that left a note, or the one that noticed nothing."""
    silent = set(range(size)) - {rank}
    happened = "died" if lost else f"gave no answer for {timeout:g} s"
    with contextlib.suppress(RuntimeError):
        store.set("trouble", "")
        store.set(f"noticed/{rank}", "")
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            for other in range(size):
                if store.check([f"failed/{other}"]):
                    note = store.get(f"failed/{other}").decode()
                    return RankError(f"rank {other} failed: {note}")
            silent = {r for r in silent if not store.check([f"noticed/{r}"])}
            if len(silent) <= 1:
                break
            time.sleep(0.05)
    names = ", ".join(map(str, sorted(silent))) or "?"
    return RankError(
        f"rank {names} {happened}; the last checkpoint stands, to be resumed from (torchrun "
        "--max-restarts does by itself)"
    )
