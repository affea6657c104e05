"""Iterations of one rank among several, with what it sent and how long it waited."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.distributed import ALONE, Ranks, joined

from ...catalog import EXPERIMENTS
from ...machine import Machine, resolve
from ...options import overlay, preset_config

# So long are tensors that show a call's latency, and the bytes that cross in a second.
SHORT, LONG = 1, 1_000_000
EXCHANGES = 20


class Log:
    """Of one iteration: seconds of own work before each call, and bytes sent."""

    def __init__(self) -> None:
        self.own: list[float] = []
        self.bytes = 0
        self.since = time.perf_counter()


class Watched(Ranks):
    """Ranks that write a `Log`."""

    log: Log

    def reduce(self, x: Tensor) -> Tensor:
        """Count the bytes."""
        self.log.bytes += x.numel() * x.element_size()
        return super().reduce(x)

    def all_gather(self, x: Tensor) -> Tensor:
        """Count the bytes."""
        self.log.bytes += x.numel() * x.element_size()
        return super().all_gather(x)

    def _wait(self, begin: Callable[[Any], Any]) -> None:
        self.log.own.append(time.perf_counter() - self.log.since)
        super()._wait(begin)
        self.log.since = time.perf_counter()


class Iteration(NamedTuple):
    """Of all ranks; seconds but for the last two.

    Attributes:
        seconds: from the first rank's beginning to its end.
        work: what a rank computed between calls, the mean over ranks.
        skew: how much longer the slowest rank took than the mean, summed over the calls.
        calls: collective operations.
        bytes: that a rank handed over.
    """

    seconds: float
    work: float
    skew: float
    calls: int
    bytes: int


def iterations(ranks: Ranks, step: Callable[[Ranks, int], object], count: int) -> list[Iteration]:
    """Call ``step`` with watched ranks; the first call is not told of.

    Args:
        ranks: of this process, all of which call this.
        step: one iteration, by its number.
        count: iterations that are told of.
    """
    found = []
    for number in range(count + 1):
        ranks.reduce(torch.zeros(1))  # they begin together
        watched = Watched(*ranks)
        log = watched.log = Log()
        began = log.since
        step(watched, number)
        ended = time.perf_counter()
        own = torch.tensor([*log.own, ended - log.since], dtype=torch.float64)
        each = ranks.all_gather(own)
        skew = float((each.amax(0) - each.mean(0)).sum())
        work = float(each.mean(0).sum())
        found.append(Iteration(ended - began, work, skew, len(log.own), log.bytes))
    return found[1:]


def exchange(ranks: Ranks) -> tuple[float, float]:
    """Seconds of an all-reduce of one number, and of a million more bytes."""
    medians = []
    for numbers in (SHORT, LONG):
        x, seconds = torch.ones(numbers), []
        for _ in range(EXCHANGES):
            began = time.perf_counter()
            ranks.reduce(x)
            seconds.append(time.perf_counter() - began)
        medians.append(statistics.median(seconds))
    return medians[0], (medians[1] - medians[0]) / (4 * (LONG - SHORT)) * 1e6


def measure(name: str, threads: int, count: int, changes: dict[str, Any]) -> dict[str, float]:
    """Medians over iterations of an experiment at the paper's settings, not compiled.

    Args:
        name: the experiment.
        threads: of each rank.
        count: iterations.
        changes: of the configuration.
    """
    machine = resolve(Machine("cpu", compile="off", threads=threads), threads=threads)
    torch.set_num_threads(threads)
    experiment = EXPERIMENTS[name]
    config = overlay(preset_config(experiment, "paper"), changes)
    with joined() as ranks:
        learner = experiment.learner().build(config, machine, ranks)
        state = learner.init(0)

        def step(watched: Ranks, number: int) -> None:
            learner.ranks = watched
            learner.step(state, number)

        rows = iterations(ranks, step, count)
        found = {
            field: statistics.median(values)
            for field, values in zip(Iteration._fields, zip(*rows, strict=True), strict=True)
        }
        if ranks.size > ALONE.size:
            found["latency"], found["megabyte"] = exchange(ranks)
    return found if ranks.rank == 0 else {}


if __name__ == "__main__":
    told = measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
    if told:
        print(json.dumps(told))
