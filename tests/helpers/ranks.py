"""Ranks as forked children of a test, which find each other as torchrun's do."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from children import Child, Tell, fork
from torch.distributed import TCPStore

from metarl.distributed import Ranks, joined
from metarl_experiments.__main__ import main

_LAUNCHERS: list[Child] = []


def start(size: int, work: Callable[[int, Tell], int | None]) -> list[Child]:
    """Fork `size` ranks, which call ``work(rank, tell)``, and what torchrun would be to them."""
    while _LAUNCHERS and _LAUNCHERS[0].read(timeout=10) is None:
        _LAUNCHERS.pop(0).wait()
    alive, held = os.pipe()

    def launcher(tell: Tell) -> None:
        # In a process of its own: what forks must not have the store's threads.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        tell(str(store.port))
        os.close(held)
        os.read(alive, 1)  # until no rank lives

    _LAUNCHERS.append(fork(launcher))
    port = _LAUNCHERS[-1].read()
    assert port is not None

    def run(rank: int) -> Callable[[Tell], int | None]:
        def begin(tell: Tell) -> int | None:
            os.environ.update(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(size),
                LOCAL_WORLD_SIZE=str(size),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
                TORCHELASTIC_USE_AGENT_STORE="True",
                TORCHELASTIC_RESTART_COUNT="0",
            )
            return work(rank, tell)

        return begin

    children = [fork(run(rank)) for rank in range(size)]
    os.close(alive)
    os.close(held)
    return children


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
