"""Ranks as forked children of a test, which find each other as torchrun's do."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from children import Child, Tell, fork
from torch.distributed import TCPStore

from metarl.distributed import Ranks, joined
from metarl_experiments.__main__ import main

_STORES: list[TCPStore] = []  # a forked child must not close its parent's


def start(size: int, work: Callable[[int, Tell], int | None]) -> list[Child]:
    """Fork `size` ranks, which call ``work(rank, tell)``; the store is here, as torchrun's is."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    _STORES.append(store)

    def run(rank: int) -> Callable[[Tell], int | None]:
        def begin(tell: Tell) -> int | None:
            os.environ.update(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(size),
                LOCAL_WORLD_SIZE=str(size),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(store.port),
                TORCHELASTIC_USE_AGENT_STORE="True",
                TORCHELASTIC_RESTART_COUNT="0",
            )
            return work(rank, tell)

        return begin

    return [fork(run(rank)) for rank in range(size)]


def on_ranks(size: int, work: Callable[[Ranks], str]) -> list[str]:
    """What ``work(ranks)`` returns, one line, on each of `size` ranks."""

    def join(_: int, tell: Tell) -> None:
        with joined(timeout=30) as ranks:
            tell(work(ranks))

    children = start(size, join)
    lines = [child.rest() for child in children]
    assert [child.wait() for child in children] == [0] * size
    return [line for (line,) in lines]


def train_on(size: int, run: Path, argv: Sequence[str]) -> list[int]:
    """`metarl train` on so many ranks, or alone; exit statuses."""
    command = ["train", *argv, f"--out={run}"]
    if size == 1:
        return [main(command)]
    children = start(size, lambda rank, tell: main(command))
    return [child.wait() for child in children]
