"""Speed of the Omniglot meta-gradient against a plain loop over tasks, and of first order."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import metarl
from metarl.images import Episode, ImageClasses, adapts, sample_episodes

from ..configs.images import THREADS, Config
from ..images.learner import ImagesLearner
from ..images.tasks import Tasks
from ..machine import Machine, resolve
from .parts.timing import medians, on_threads


def omniglot_bench(repetitions: int = 5) -> dict[str, float]:
    """Medians over interleaved repetitions: 5-way 1-shot, 32 tasks, one inner step, all cores.

    - ``milliseconds``: our exact meta-gradient.
    - ``loop/gradient``: the same by ``torch.autograd.grad`` task by task through torch's own
      convolution and batch norm, on one thread or on all, which is faster, against ours.
    - ``first-order/exact``: without second derivatives against with them.

    Pictures are random: speed does not depend on them.
    """
    machine = resolve(Machine(device="cpu"), threads=THREADS)
    torch.set_num_threads(machine.threads)
    exact = ImagesLearner(Config(), machine)
    first = ImagesLearner(replace(Config(), first_order=True), machine)
    params, _ = metarl.from_module(exact.net(0))
    tasks = _tasks()
    plain = {name: as_kernel(p) for name, p in params.items()}

    def loop() -> dict[str, Tensor]:
        return loop_gradient(plain, tasks, exact.config.inner_lr)

    runs: dict[str, Callable[[], object]] = {
        "loop, one thread": on_threads(loop, 1),
        "loop": loop,
        "exact": lambda: gradient(exact, params, tasks),
        "first": lambda: gradient(first, params, tasks),
    }
    seconds = medians(runs, repetitions)
    return {
        "milliseconds": 1e3 * seconds["exact"],
        "loop/gradient": min(seconds["loop"], seconds["loop, one thread"]) / seconds["exact"],
        "first-order/exact": seconds["first"] / seconds["exact"],
    }


def _tasks() -> Tasks:
    rng = metarl.stream(0, "bench")
    pixels = rng.integers(0, 256, (50, 2, 1, 28, 28), dtype=np.uint8)
    data = ImageClasses(pixels, tuple(map(str, range(50))))
    return Tasks(*sample_episodes(data, rng, tasks=32, ways=5, shots=1, queries=1))


def as_kernel(p: Tensor) -> Tensor:
    """A convolution weight in torch's own layout; anything else as it is."""
    p = p.detach()
    if p.ndim == 2 and p.shape[0] % 9 == 0:
        p = p.view(3, 3, -1, p.shape[1]).permute(3, 2, 0, 1)
    return p.clone(memory_format=torch.contiguous_format).requires_grad_()


def gradient(learner: ImagesLearner, params: metarl.Params, tasks: Tasks) -> dict[str, Tensor]:
    """The meta-gradient as training takes it."""
    return learner.meta_gradient(params, tasks, 0)[1]


def loop_gradient(params: metarl.Params, tasks: Tasks, inner_lr: float) -> dict[str, Tensor]:
    """The same, task by task, with ``create_graph``: what other libraries do."""
    moving = [name for name in params if adapts(name)]
    count = len(tasks.query.labels)
    total = torch.zeros(())
    for i in range(count):
        support, query = (Episode(e.images[i], e.labels[i]) for e in tasks)
        error = functional.cross_entropy(_logits(params, support.images), support.labels)
        slopes = torch.autograd.grad(error, [params[n] for n in moving], create_graph=True)
        stepped = {n: params[n] - inner_lr * g for n, g in zip(moving, slopes, strict=True)}
        logits = _logits({**params, **stepped}, query.images)
        total = total + functional.cross_entropy(logits, query.labels) / count
    return dict(zip(params, torch.autograd.grad(total, list(params.values())), strict=True))


def _logits(params: metarl.Params, x: Tensor) -> Tensor:
    for i in range(4):
        x = functional.conv2d(x, params[f"convolutions.{i}"], stride=2, padding=1)
        beta = params[f"norms.{i}.beta"]
        x = functional.batch_norm(x, None, None, None, beta, training=True, eps=1e-3).relu()
    return functional.linear(x.mean((2, 3)), params["head.weight"], params["head.bias"])
