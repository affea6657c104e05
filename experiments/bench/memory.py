"""Memory of a meta-iteration, by the number of tasks."""

import subprocess
import sys
from dataclasses import replace

import torch
from torch.utils._pytree import tree_leaves

import metarl
from metarl.errors import MetarlError
from metarl.rl.collect import collect_meta_batch

from ..configs.rl import THREADS
from ..machine import Machine, resolve
from ..memory import peak_bytes
from ..rl.learner import PolicyLearner
from .parts.update import CHEETAH

ITERATIONS = 3


def memory_bench(repetitions: int = 1, tasks: tuple[int, ...] = (40, 160)) -> dict[str, float]:
    """Peak of cheetah meta-iterations at the paper's settings, of 40 and of 160 tasks.

    - ``gigabytes-40``, ``gigabytes-160``: of a fresh process after three iterations, less those
      after its imports, less the rollouts of one iteration; the largest over the repetitions.
    """
    found: dict[str, float] = {}
    for count in tasks * repetitions:
        command = [sys.executable, "-m", __name__, str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MetarlError(f"the process that was measured failed: {done.stderr.strip()}")
        name = f"gigabytes-{count}"
        found[name] = max(found.get(name, 0.0), float(done.stdout))
    return found


def measure(tasks: int, machine: Machine | None = None, **changes: object) -> float:
    """Gigabytes that three iterations take beyond what is there, in this process.

    Args:
        tasks: of each iteration.
        machine: as asked for.
        changes: of the configuration.
    """
    before = peak_bytes()
    machine = resolve(machine or Machine(device="cpu"), threads=THREADS)
    torch.set_num_threads(machine.threads)
    config = replace(CHEETAH, meta_batch=tasks, **changes)  # type: ignore[arg-type]
    learner = PolicyLearner(config, machine)
    state = learner.init(0)
    for iteration in range(ITERATIONS):
        learner.step(state, iteration)
    peak = peak_bytes() - before
    sampler = learner.sampler(*learner.sizes)
    collected = collect_meta_batch(
        state.params,
        policy=learner.policy,
        objectives=learner.objectives,
        sampler=sampler,
        tasks=sampler.sample_tasks(tasks, metarl.stream(0, "bench")),
        inner_steps=config.inner_steps,
        weighting=learner.weighting,
        seed=0,
        mapping=learner.mapping,
    )
    rollouts: int = sum(x.numel() * x.element_size() for x in tree_leaves(collected.rollouts))
    return (peak - rollouts) / 1e9


if __name__ == "__main__":
    print(measure(int(sys.argv[1])))
