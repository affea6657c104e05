"""Speed of a whole meta-iteration against the physics alone."""

import statistics

import torch

from metarl.rl.clock import PARTS

from ..configs.rl import THREADS, Config
from ..family import Metrics
from ..machine import Machine, resolve
from ..rl import PolicyLearner
from .beside.physics import raw_physics
from .beside.timing import medians
from .beside.update import CHEETAH


def meta_iteration_bench(
    repetitions: int = 5, config: Config = CHEETAH, machine: Machine | None = None
) -> dict[str, float]:
    """Medians over interleaved repetitions: cheetah velocity at the paper's settings, TRPO.

    - ``seconds``: a meta-iteration of training, 320 000 steps.
    - ``iteration/physics``: against raw `mujoco.rollout` of as many steps, without sensors.
    - ``sample``, ``adapt``, ``gradient``, ``fisher``, ``line_search``, ``other``: seconds of its
      parts.
    """
    machine = resolve(machine or Machine(device="cpu"), threads=THREADS)
    torch.set_num_threads(machine.threads)
    learner = PolicyLearner(config, machine)
    state = learner.init(0)
    physics = raw_physics(
        config.env.id,
        config.env.physics,
        rows=config.meta_batch * config.episodes,
        steps=(config.inner_steps + 1) * config.env.horizon,
        cores=machine.threads,
    )
    logged: list[Metrics] = []
    runs = {
        "iteration": lambda: logged.append(learner.step(state, len(logged))),
        "physics": physics,
    }
    seconds = medians(runs, repetitions)
    parts = {
        part: statistics.median(float(metrics[f"seconds.{part}"]) for metrics in logged[1:])
        for part in PARTS
    }
    return {
        "seconds": seconds["iteration"],
        "iteration/physics": seconds["iteration"] / seconds["physics"],
        **parts,
    }
