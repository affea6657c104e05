"""Short runs of every workload through the command line, killed, resumed and compared."""

import hashlib
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from children import fork
from commands import final_bytes
from images_data import glyphs

from metarl.runs import faults, load_checkpoint, read_best, read_metrics
from metarl_experiments.__main__ import main

COMMON = ["--compile=off", "--threads=1", "--validation-tasks=4", "--checkpoint-seconds=0.01"]
POLICY = ["--meta-batch=2", "--episodes=3", "--hidden=8", "--iterations=9", "--validate-every=3"]
SUPERVISED = ["--meta-batch=2", "--log-every=5", "--validate-every=10"]
WORKLOADS = {
    # Rates so high that adaptation does not help and the best is not the last.
    "sinusoid": [
        "sinusoid",
        "--preset=paper",
        *SUPERVISED,
        "--iterations=60",
        "--lr=0.1",
        "--inner-lr=2",
    ],
    "images": ["omniglot", *SUPERVISED, "--iterations=30", "--net=dense"],
    "navigation": ["navigation", *POLICY, "--env.horizon=20", "--update=promp"],
    "trust-region": ["navigation", *POLICY, "--env.horizon=20", "--learned-lr=tensor"],
    "cheetah": ["cheetah-velocity", *POLICY, "--env.horizon=10"],
}


def glyphs_for_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn characters in the place of Omniglot's."""
    monkeypatch.setattr("metarl_experiments.images.tasks.load_omniglot", lambda _: glyphs(1623))


def argv(workload: str, run: Path, *more: str) -> list[str]:
    """Command line that begins a run, or goes on with it."""
    if (run / "config.json").exists():
        return ["train", WORKLOADS[workload][0], f"--out={run}", "--resume", *more]
    return ["train", *WORKLOADS[workload], *COMMON, f"--out={run}", *more]


def ending(run: Path) -> dict[str, Any]:
    """What a run comes to: all that must not depend on interruptions, and no times."""
    last = max((run / "checkpoints").glob("[0-9]*"))
    lines = read_metrics(run / "metrics.jsonl")
    return {
        "iteration": int(last.name),
        "hash": hashlib.sha256(final_bytes(run)).hexdigest(),
        "state": load_checkpoint(last).state,
        "best": read_best(run),
        "metrics": [{k: v for k, v in x.items() if not k.startswith("seconds")} for x in lines],
    }


def kill_at_random(workload: str, run: Path, dice: random.Random) -> bool:
    """Begin or go on, and be killed some iterations later; false if it was done before."""
    most = 15 if workload == "sinusoid" else 8 if workload == "images" else 2
    count, part = dice.randint(1, most), dice.random()
    began: list[float] = []

    def iteration() -> None:
        began.append(time.monotonic())
        if len(began) == count:
            # The kernel's own alarm, anywhere in an iteration or a save that takes as long.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            last = began[-1] - began[-2] if count > 1 else 0.02
            signal.setitimer(signal.ITIMER_REAL, max(part * last, 1e-6))

    def work(_: Any) -> int:
        with faults.injected("train:iteration", iteration):
            return main(argv(workload, run))

    status = fork(work).wait()
    assert status in (0, -signal.SIGALRM)
    return status != 0
