"""Speed of the sinusoid's meta-gradient against a plain loop over tasks, and of first order."""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

import metarl

from ..configs.sinusoid import Config
from ..machine import Machine, resolve
from ..sinusoid import SinusoidLearner
from ..sinusoid_tasks import Episodes

CALLS = 100


def sinusoid_bench(repetitions: int = 5) -> dict[str, float]:
    """Medians over interleaved repetitions, at the paper's settings, one thread.

    - ``milliseconds``: an iteration, sampling and Adam included.
    - ``loop/gradient``: the meta-gradient by ``torch.autograd.grad`` task by task, against ours.
    - ``first-order/exact``: our meta-gradient without second derivatives against the exact one,
      same mapping.
    """
    machine = resolve(Machine(device="cpu"), threads=1)
    torch.set_num_threads(1)
    exact = SinusoidLearner(Config(), machine)
    first = SinusoidLearner(replace(Config(), first_order=True), machine)
    state, params = exact.init(0), exact.init(0).params
    episodes = exact.source.block(0, 0)[0]
    iterations = itertools.count()
    runs: dict[str, Callable[[], object]] = {
        "iteration": lambda: exact.step(state, next(iterations)),
        "exact": lambda: gradient(exact, params, episodes),
        "first": lambda: gradient(first, params, episodes),
        "loop": lambda: loop_gradient(exact, params, episodes),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions + 1):
        for name, run in runs.items():
            seconds[name].append(_seconds(run))
    # The first repetition compiles and warms up.
    time_of = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {
        "milliseconds": 1e3 * time_of["iteration"],
        "loop/gradient": time_of["loop"] / time_of["exact"],
        "first-order/exact": time_of["first"] / time_of["exact"],
    }


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        run()
    return (time.perf_counter() - began) / CALLS


def gradient(
    learner: SinusoidLearner, params: metarl.Params, episodes: Episodes
) -> dict[str, torch.Tensor]:
    """The meta-gradient as training takes it."""
    return learner.meta_gradient(params, episodes)[1]


def loop_gradient(
    learner: SinusoidLearner, params: metarl.Params, episodes: Episodes
) -> dict[str, torch.Tensor]:
    """The same, task by task, with ``create_graph``: what other libraries do."""
    theta = list(params.values())
    total = torch.zeros(())
    tasks = len(episodes.support.x)
    for x, y, x_query, y_query in zip(*episodes.support, *episodes.query, strict=True):
        error = (learner.apply(params, x) - y).square().mean()
        slopes = torch.autograd.grad(error, theta, create_graph=True)
        adapted = {
            name: p - learner.config.inner_lr * g
            for (name, p), g in zip(params.items(), slopes, strict=True)
        }
        total = total + (learner.apply(adapted, x_query) - y_query).square().mean() / tasks
    return dict(zip(params, torch.autograd.grad(total, theta), strict=True))
