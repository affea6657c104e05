"""Speed of the meta-gradient of a policy against the machine's peak, one vmap and a plain loop."""

import operator
from dataclasses import replace

import torch
from torch.utils._pytree import tree_map_only

from metarl.objective import gradients, mean_over_tasks

from ..configs.rl import Config
from ..machine import Machine
from ..rl.learner import PolicyLearner
from .parts.loop import loop_objective
from .parts.products import operations_of, products
from .parts.timing import medians, on_threads
from .parts.update import CHEETAH, prepare


def meta_gradient_bench(
    repetitions: int = 5, config: Config = CHEETAH, machine: Machine | None = None
) -> dict[str, float]:
    """Medians over interleaved repetitions: cheetah velocity, 40 tasks x 4000 steps, second order.

    - ``milliseconds``: the meta-gradient.
    - ``mm/gradient``, ``onednn/gradient``: seconds that its matrix products alone would take at the
      speed of ``torch.mm``, and of oneDNN, on matrices of the hidden layer's size.
    - ``vmap/gradient``: all tasks in one vmap, uncompiled.
    - ``loop/gradient``: ``torch.autograd.grad`` task by task, on one thread or on all, which is
      faster.
    - ``first-order/exact``: without second derivatives against with them, same mapping.
    """
    prepared = prepare(config, machine or Machine(device="cpu"))
    learner, theta, data = prepared.learner, prepared.theta, prepared.data
    surrogate = learner.objectives.surrogate
    ours = mean_over_tasks(surrogate, data, mapping=learner.mapping)
    together = mean_over_tasks(surrogate, data, mapping="vmap")
    loop = loop_objective(learner, data, prepared.few)
    first = PolicyLearner(replace(config, first_order=True), learner.machine).objectives
    without = mean_over_tasks(first.surrogate, data, mapping=learner.mapping)
    peaks = products(config.episodes * config.env.horizon, config.hidden[-1])
    threads = torch.get_num_threads()
    runs = {
        **{name: run for name, (run, _) in peaks.items()},
        "gradient": lambda: ours.gradient(theta),
        "first order": lambda: without.gradient(theta),
        "vmap": lambda: together.gradient(theta),
        "loop, one thread": on_threads(lambda: loop.gradient(theta), 1),
        "loop": on_threads(lambda: loop.gradient(theta), threads),
    }
    seconds = medians(runs, repetitions)
    one = tree_map_only(torch.Tensor, operator.itemgetter(slice(1)), data)
    work = config.meta_batch * operations_of(lambda: gradients(surrogate)((theta,), one))
    gradient = seconds["gradient"]
    return {
        "milliseconds": 1e3 * gradient,
        **{
            f"{name}/gradient": work / operations * seconds[name] / gradient
            for name, (_, operations) in peaks.items()
        },
        "vmap/gradient": seconds["vmap"] / gradient,
        "loop/gradient": min(seconds["loop"], seconds["loop, one thread"]) / gradient,
        "first-order/exact": seconds["first order"] / gradient,
    }
