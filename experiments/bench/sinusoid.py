"""Speed of the sinusoid's meta-gradient against a plain loop over tasks, and of first order."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import torch

import metarl

from ..configs.sinusoid import Config
from ..machine import Machine, resolve
from ..sinusoid.learner import SinusoidLearner
from ..sinusoid.tasks import Episodes
from .parts.timing import medians

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
    seconds = medians({name: _many(run) for name, run in runs.items()}, repetitions)
    return {
        "milliseconds": 1e3 * seconds["iteration"] / CALLS,
        "loop/gradient": seconds["loop"] / seconds["exact"],
        "first-order/exact": seconds["first"] / seconds["exact"],
    }


def _many(run: Callable[[], object]) -> Callable[[], None]:
    """Calls too short to be timed one by one."""

    def calls() -> None:
        for _ in range(CALLS):
            run()

    return calls


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
