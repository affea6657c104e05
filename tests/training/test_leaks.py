"""Hundreds of meta-iterations of every workload leave memory, files and threads as they were."""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from children import fork
from workloads import COMMON, WORKLOADS, glyphs_for_images

from metarl.runs import faults
from metarl_experiments.__main__ import main

ITERATIONS = 300
WARMING = 60  # allocators and caches fill up before this
SLOPE = 5e-4  # of the memory, per iteration


@pytest.mark.slow
@pytest.mark.parametrize("workload", [name for name in WORKLOADS if name != "trust-region"])
@pytest.mark.parametrize("leak", [False, True])
def test_nothing_grows(
    tmp_path: Path, workload: str, leak: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a leak of 1 MB an iteration, the mutant, memory is seen to grow."""
    glyphs_for_images(monkeypatch)
    hoard: list[Any] = []

    def work(tell: Any) -> int:
        process = psutil.Process()

        def look() -> None:
            if leak:
                hoard.append(np.ones(2**17))
            files, threads = len(os.listdir("/dev/fd")), threading.active_count()
            tell(f"{process.memory_info().rss} {files} {threads}")

        options = [f"--out={tmp_path / 'run'}", f"--iterations={ITERATIONS}"]
        kept = [x for x in WORKLOADS[workload] if not x.startswith("--iterations")]
        with faults.injected("train:iteration", look):
            return main(["train", *kept, *COMMON, *options])

    child = fork(work)
    seen = np.array([[int(x) for x in line.split()] for line in child.rest()])
    assert child.wait() == 0
    assert len(seen) == ITERATIONS
    memory, files, threads = seen[WARMING:].T
    slope = np.polyfit(np.arange(len(memory)), memory / memory.mean(), 1)[0]
    print(f"{workload}: {1e2 * slope:.4f} % per iteration of {memory.mean() / 2**20:.0f} MB")
    assert (slope > SLOPE) == leak
    assert len(set(files)) == 1
    assert len(set(threads)) == 1
