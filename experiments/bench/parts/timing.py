"""Medians over interleaved repetitions: a machine's bad moments hit everything timed alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def medians(runs: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Seconds of each function, but for its first call, which warms up and compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repetition in range(repetitions + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if repetition:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def on_threads(run: Callable[[], object], threads: int) -> Callable[[], object]:
    """``run`` with so many intra-op threads."""

    def limited() -> object:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return run()
        finally:
            torch.set_num_threads(before)

    return limited
