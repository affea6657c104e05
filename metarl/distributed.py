"""Ranks: processes that share the tasks of every meta-iteration, started by torchrun.

Every rank holds theta and computes the same updates of it; only tasks are shared out, by `rows`.
What crosses between ranks is sums (`reduce`), numbers of tasks (`gather`) and what the first rank
decides or reads (`first`, `share`). It crosses on the CPU, by gloo, whatever the device.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .errors import InputError, NonFiniteError, RankError
from .reduction import InOrder, Reducer
from .waiting import wait

T = TypeVar("T")
# Above this rank's own time limit, which names the rank that is late. No more than that: the
# process of a rank that has given up ends when gloo's thread has.
_MARGIN_SECONDS = 1.0


def launched() -> bool:
    """Whether a launcher started this process as one of several ranks."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return all(name in os.environ for name in names) and os.environ["WORLD_SIZE"] != "1"


class Ranks(NamedTuple):
    """The place of this process among the others; alone by default, when nothing is exchanged.

    All ranks must call the collective functions (all but `rows`, `reducer` and `own_tasks`) in the
    same order. Each raises `RankError` where another rank failed, or gave no answer for `timeout`.

    Attributes:
        rank: of this process, from 0.
        size: number of ranks.
        timeout: seconds to wait for the others.
        store: what ranks leave notes in when they fail.
        parent: the process that started this one, as it was when they met.
    """

    rank: int = 0
    size: int = 1
    timeout: float = 300.0
    store: Any = None
    parent: int = 0

    def rows(self, tasks: int) -> slice:
        """Which of ``tasks`` tasks are this rank's: contiguous, the first ranks have one more.

        Raises:
            InputError: there are more ranks than tasks.
        """
        if tasks < self.size:
            raise InputError(f"{self.size} ranks cannot share {tasks} tasks: start fewer ranks")
        each, more = divmod(tasks, self.size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def reducer(self, exact: bool) -> Reducer | None:
        """What `mean_over_tasks` and `meta_loss` take as ``reduce``.

        Args:
            exact: add up the tasks in their order, so that sums do not depend on the number of
                ranks to the bit, as long as every task is a chunk of its own.
        """
        if self.size == 1:
            return None
        return InOrder(self.gather) if exact else self.reduce

    def reduce(self, x: Tensor) -> Tensor:
        """Sum of a tensor over ranks, the same bits on all."""
        if self.size == 1:
            return x
        total = x.detach().cpu().clone()
        self._wait(lambda dist: dist.all_reduce(total, async_op=True))
        return total.to(x.device)

    def all_gather(self, x: Tensor) -> Tensor:
        """The tensors ``(...)`` of all ranks, ``(rank, ...)``, on every rank."""
        if self.size == 1:
            return x.unsqueeze(0)
        own = x.detach().cpu().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        self._wait(lambda dist: dist.all_gather(parts, own, async_op=True))
        return torch.stack(parts).to(x.device)

    def gather(self, rows: Tensor) -> Tensor:
        """All ranks' rows ``(own, ...) -> (all, ...)``, in the order of ranks, on every rank."""
        if self.size == 1:
            return rows
        counts = self.all_gather(torch.tensor(len(rows))).tolist()
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        parts = self.all_gather(padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def share(self, data: bytes) -> bytes:
        """The first rank's bytes."""
        if self.size == 1:
            return data
        count = torch.tensor([len(data)], device="cpu")
        self._wait(lambda dist: dist.broadcast(count, 0, async_op=True))
        box = torch.empty(int(count), dtype=torch.uint8, device="cpu")
        if self.rank == 0:
            box = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else box
        self._wait(lambda dist: dist.broadcast(box, 0, async_op=True))
        return box.numpy().tobytes()

    def first(self, value: bool) -> bool:
        """The first rank's decision."""
        return self.share(b"1" if value else b"0") == b"1"

    def together(self, fn: Callable[[], T]) -> T:
        """Call ``fn`` on every rank; where it fails on any, none goes on.

        The first rank that failed raises its error, the others leave silently with its exit code.
        Not for what contains collective calls.
        """
        if self.size == 1:
            return fn()
        failure: Exception | None = None
        try:
            value = fn()
        except Exception as error:
            failure = error
        code = 0 if failure is None else int(getattr(failure, "exit_code", 1))
        codes = self.all_gather(torch.tensor(code))
        if not codes.any():
            return value
        lowest = int(codes.nonzero()[0])
        if failure is not None and lowest == self.rank:
            raise failure
        raise SystemExit(int(codes[lowest]))

    def require_same(self, what: str, text: str) -> None:
        """Refuse ranks whose ``text`` differs from the first rank's.

        Raises:
            InputError: on the first rank that differs, with the first line that does.
        """
        lines = self.share(text.encode()).decode().splitlines()

        def check() -> None:
            ours = text.splitlines()
            if ours == lines:
                return
            pairs = zip([*ours, ""], [*lines, ""], strict=False)
            one, other = next(p for p in pairs if p[0] != p[1])
            raise InputError(
                f"rank {self.rank} has another {what} than rank 0: {one.strip()} instead of "
                f"{other.strip()}; all ranks need the same"
            )

        self.together(check)

    @contextlib.contextmanager
    def own_tasks(self, rows: slice) -> Iterator[None]:
        """Say which rank and which of all tasks a `NonFiniteError` is about."""
        try:
            yield
        except NonFiniteError as error:
            if self.size > 1:
                where = f"rank {self.rank}, with tasks {rows.start} to {rows.stop - 1}"
                error.args = (f"{where}: {error}",)
                if error.task is not None:
                    error.task += rows.start
            raise

    def _wait(self, begin: Callable[[Any], Any]) -> None:
        """Begin a collective operation and wait for it."""
        wait(begin, self.rank, self.size, self.timeout, self.store)


ALONE = Ranks()


@contextlib.contextmanager
def joined(timeout: float = ALONE.timeout) -> Iterator[Ranks]:
    """Join the other ranks where torchrun started several, else be alone.

    Args:
        timeout: seconds to wait for another rank, now and in every operation.

    Raises:
        RankError: the others did not come.
    """
    if not launched():
        yield Ranks(timeout=timeout)
        return
    parent = os.getppid()  # before anything slow, in which it may die
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
        if size == int(os.environ.get("LOCAL_WORLD_SIZE", "0")):
            # The launcher may keep its store over restarts, with the addresses and notes of ranks
            # that are no more. Launchers of several machines need not count restarts alike.
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = dist.PrefixStore(f"attempt/{attempt}", store)  # type: ignore[attr-defined]
        dist.init_process_group(
            "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout + _MARGIN_SECONDS),
        )
    except RuntimeError as error:
        raise RankError(f"the ranks did not find each other: {error}") from error
    try:
        yield Ranks(rank, size, timeout, store, parent)
    except (RankError, SystemExit):
        raise
    except BaseException as error:
        with contextlib.suppress(RuntimeError):
            store.set(f"failed/{rank}", str(error) or type(error).__name__)
        raise
    # Gloo's thread lets go of the last tensors a moment after its work is done, and needs the
    # interpreter lock for that. The group of torch before 2.8 holds the lock when it waits for the
    # thread, for ever; the backend itself, when it is the last to go, does not.
    assert dist.group.WORLD is not None
    backend = dist.group.WORLD._get_backend(torch.device("cpu"))
    dist.destroy_process_group()
    del backend
