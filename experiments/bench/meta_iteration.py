"""Speed of a whole meta-iteration against the physics alone."""

import statistics

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.params import Params, expand_params
from metarl.rl.clock import PARTS

from ..configs.rl import THREADS, Config
from ..family import Metrics
from ..machine import Machine, resolve
from ..rl.learner import PolicyLearner
from .parts.physics import played_controls, raw_physics
from .parts.timing import medians
from .parts.update import CHEETAH


def meta_iteration_bench(
    repetitions: int = 5, config: Config = CHEETAH, machine: Machine | None = None
) -> dict[str, float]:
    """Medians over interleaved repetitions: cheetah velocity at the paper's settings, TRPO.

    - ``seconds``: a meta-iteration of training, 320 000 steps.
    - ``iteration/physics``: against raw `mujoco.rollout` of as many steps with a policy's controls,
      without sensors.
    - ``sample``, ``adapt``, ``gradient``, ``fisher``, ``line_search``, ``other``: seconds of its
      parts.
    """
    machine = resolve(machine or Machine(device="cpu"), threads=THREADS)
    torch.set_num_threads(machine.threads)
    learner = PolicyLearner(config, machine)
    state = learner.init(0)
    controls = _controls(learner, state.params)
    physics = raw_physics(config.env.id, config.env.physics, controls, cores=machine.threads)
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


def _controls(learner: PolicyLearner, theta: Params) -> NDArray[np.float64]:
    """Of the rollouts of a meta-iteration, theta playing all of them."""
    config = learner.config
    sampler = learner.sampler(*learner.sizes)
    sampler.set_tasks(sampler.sample_tasks(config.meta_batch, np.random.default_rng(0)))
    shared = expand_params(theta, config.meta_batch)
    collections = config.inner_steps + 1
    return played_controls(sampler, learner.policy, shared, collections=collections)
