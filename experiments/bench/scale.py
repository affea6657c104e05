"""Ranks against threads, and against the cost model of ``docs/scale.md``."""

import json
import os
import subprocess
import sys
from typing import Any

from metarl.errors import MetarlError

from ..catalog import EXPERIMENTS
from ..options import overlay, preset_config
from .parts import ranks as child
from .parts.scaling import costs, seconds

# Experiment -> iterations for one repetition.
ITERATIONS = {"sinusoid": 40, "navigation": 1, "cheetah-velocity": 1}


def scale_bench(
    repetitions: int = 5,
    iterations: dict[str, int] = ITERATIONS,
    changes: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Medians over iterations at the paper's settings, not compiled, on two cores.

    For each experiment, ``rxt`` being ranks and threads of each:

    - ``1x1``, ``1x2``, ``2x1``: seconds of an iteration of all tasks (one less where they are odd).
    - ``half``: seconds of one rank alone with half of the tasks.
    - ``neighbours``: seconds that two ranks compute, on average, against that: cores share caches
      and more.
    - ``skew``: seconds that they wait for the slower.
    - ``calls``, ``bytes``: what a rank hands over in an iteration.
    - ``model/2x1``: what `parts.scaling` says of two ranks, against ``2x1``.

    and ``latency``, ``megabyte``: seconds of an all-reduce of one number, and of 10^6 bytes.

    Args:
        repetitions: as many as of other benches; short iterations are repeated more often.
        iterations: of one repetition, by experiment.
        changes: of the configurations.
    """
    found: dict[str, float] = {}
    for name, count in iterations.items():
        config = overlay(preset_config(EXPERIMENTS[name], "paper"), changes or {})
        half = config.meta_batch // 2
        one, part, threads, ranks = (
            _children(name, r, t, repetitions * count, {**(changes or {}), "meta_batch": tasks})
            for r, t, tasks in ((1, 1, 2 * half), (1, 1, half), (1, 2, 2 * half), (2, 1, 2 * half))
        )
        results = {
            "1x1": one["seconds"],
            "1x2": threads["seconds"],
            "2x1": ranks["seconds"],
            "half": part["seconds"],
            "neighbours": ranks["work"] / part["seconds"],
            "skew": ranks["skew"],
            "calls": ranks["calls"],
            "bytes": ranks["bytes"],
        }
        found |= {f"{name}-{what}": value for what, value in results.items()}
        found |= {what: ranks[what] for what in ("latency", "megabyte")}
        model = seconds(costs(found, name, 2 * half), 2 * half, 2)
        found[f"{name}-model/2x1"] = model.total / ranks["seconds"]
    return found


def _children(
    name: str, ranks: int, threads: int, count: int, changes: dict[str, Any]
) -> dict[str, float]:
    """Measure in processes of their own."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    arguments = [child.__name__, name, str(threads), str(count), json.dumps(changes)]
    command = [sys.executable, "-m", *(launcher if ranks > 1 else ()), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise MetarlError(f"the processes that were measured failed: {done.stderr.strip()[-800:]}")
    told: dict[str, float] = json.loads(done.stdout)
    return told
