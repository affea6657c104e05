"""What must not change the meta-gradient: mappings, orders, groupings, equivalent options."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from oracles import Sinusoids, flat, rel, rows, sinusoids, slope, task
from torch import Tensor

from metarl import (
    InnerLoop,
    adapt,
    adapt_path,
    adapt_tasks,
    expand_params,
    mean_over_tasks,
    meta_loss,
)
from metarl.compiling import compiler_present
from metarl.params import Params

INNER = InnerLoop(0.01)
VARIANTS = {
    "sgd": INNER,
    "first order": InnerLoop(0.01, first_order=True),
    "momentum": InnerLoop(0.01, optimizer="momentum", clip=1.0),
    "adam": InnerLoop(0.01, optimizer="adam", adapted=lambda name: "layers.2" in name),
}


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def s() -> Sinusoids:
    return sinusoids(width=10)


def gradient(s: Sinusoids, inner: InnerLoop = INNER, **options: Any) -> Tensor:
    loss = meta_loss(s.loss, s.loss, s.params, s.supports, s.query, inner, **options)
    return slope(loss, s.params)


def loop(s: Sinusoids, inner: InnerLoop) -> Tensor:
    """The meta-gradient of plain autograd over a Python loop, holding all graphs."""
    losses = []
    for i in range(len(s.query.x)):
        supports = [task(b, i) for b in s.supports]
        losses.append(s.loss(adapt(s.loss, s.params, supports, inner), task(s.query, i)))
    return slope(torch.stack(losses).mean(), s.params)


def subset(s: Sinusoids, index: Any) -> Sinusoids:
    return s._replace(
        supports=tuple(rows(b, index) for b in s.supports), query=rows(s.query, index)
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mapping", ["auto", "vmap", "chunk:1", "chunk:3", "threads"])
@pytest.mark.usefixtures("two_threads")
def test_mappings_equal_a_python_loop(s: Sinusoids, mapping: str, variant: str) -> None:
    truth = loop(s, VARIANTS[variant])
    assert rel(gradient(s, VARIANTS[variant], mapping=mapping), truth) < 1e-12
    other = "sgd" if variant == "first order" else "first order"
    assert rel(gradient(s, VARIANTS[other], mapping=mapping), truth) > 1e-3  # mutant


@pytest.mark.skipif(not compiler_present(), reason="no C++ compiler")
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    "mapping",
    [
        "threads+compile",
        pytest.param("vmap+compile", marks=pytest.mark.slow),
        pytest.param("chunk:3+compile", marks=pytest.mark.slow),
    ],
)
def test_compiled_equals_eager(mapping: str) -> None:
    s = sinusoids(width=5, steps=1)
    truth = gradient(s, mapping="vmap")
    for _ in range(2):
        assert rel(gradient(s, mapping=mapping), truth) < 1e-12


@pytest.mark.parametrize("mapping", ["vmap", "chunk:3", "threads"])
@pytest.mark.usefixtures("two_threads")
def test_adaptation_maps_like_a_loop(s: Sinusoids, mapping: str) -> None:
    together = adapt_path(s.loss, s.params, s.supports, INNER, mapping=mapping)
    assert len(together) == 4
    for i in range(4):
        supports = [task(b, i) for b in s.supports]
        alone = adapt(s.loss, s.params, supports, INNER)
        assert rel(flat(p[i] for p in together[-1].values()), flat(alone)) < 1e-12


def test_tasks_adapt_as_if_alone(s: Sinusoids) -> None:
    together = adapt_tasks(s.loss, s.params, s.supports, INNER)

    def joint(params: Params) -> Tensor:
        # Mutant: the mean over the task axis inside the inner loss divides every step by T.
        return torch.func.vmap(s.loss)(params, s.supports[0]).mean()

    wrong = expand_params(s.params, 4)
    for _ in range(3):
        g = torch.func.grad(joint)(wrong)
        wrong = {n: p - 0.01 * g[n] for n, p in wrong.items()}
    for i in range(4):
        own = subset(s, [i])
        alone = flat(adapt_tasks(own.loss, own.params, own.supports, INNER))
        assert rel(flat(p[i] for p in together.values()), alone) < 1e-12
        assert rel(flat(p[i] for p in wrong.values()), alone) > 1e-4


def test_permuted_duplicated_and_halved_batches(s: Sinusoids) -> None:
    whole = gradient(s)
    assert rel(gradient(subset(s, [2, 0, 3, 1])), whole) < 1e-12
    assert rel(gradient(subset(s, [0, 1, 2, 3, 0, 1, 2, 3])), whole) < 1e-12
    halves = [gradient(subset(s, index)) for index in ([0, 1], [2, 3])]
    assert rel((halves[0] + halves[1]) / 2, whole) < 1e-12
    assert rel(halves[0] + halves[1], whole) > 0.5  # mutant: a sum for a mean
    mixed = s._replace(query=rows(s.query, [1, 0, 3, 2]))  # mutant: queries of other tasks
    assert rel(gradient(mixed), whole) > 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_saving_path_equals_plain_autograd(s: Sinusoids, variant: str) -> None:
    inner = VARIANTS[variant]
    path = adapt_path(s.loss, s.params, s.supports, inner)
    plain = torch.func.vmap(s.loss)(path[-1], s.query).mean()
    held = meta_loss(s.loss, s.loss, s.params, s.supports, s.query, inner)
    truth = slope(plain, s.params)
    assert rel(held.detach(), plain.detach()) < 1e-12
    # A third of the loss plus something else: the held gradient is scaled and summed.
    (held / 3 + s.params["layers.0.bias"].sum()).backward()
    for (name, p), g in zip(s.params.items(), split_like(truth, s.params), strict=True):
        assert p.grad is not None
        g = g / 3 + 1 if name == "layers.0.bias" else g / 3
        assert float((p.grad - g).abs().max()) < 1e-12 * float(truth.norm())
    assert rel(gradient(s, VARIANTS["sgd" if variant != "sgd" else "adam"]), truth) > 1e-3  # mutant


def split_like(vector: Tensor, params: Params) -> list[Tensor]:
    parts = torch.split(vector, [p.numel() for p in params.values()])
    return [part.view_as(p) for part, p in zip(parts, params.values(), strict=True)]


def test_equivalent_options(s: Sinusoids) -> None:
    truth = gradient(s)
    per = {
        "tensor": {n: torch.tensor(0.01, dtype=p.dtype) for n, p in s.params.items()},
        "element": {n: torch.full_like(p, 0.01).detach() for n, p in s.params.items()},
        "step": {n: p.new_full((3, *[1] * p.ndim), 0.01) for n, p in s.params.items()},
        "element and step": {n: p.new_full((3, *p.shape), 0.01) for n, p in s.params.items()},
        "fewer steps than taken": {n: p.new_full((1, *p.shape), 0.01) for n, p in s.params.items()},
    }
    for lr in per.values():
        assert rel(gradient(s, InnerLoop(lr)), truth) < 1e-12
    assert rel(gradient(s, InnerLoop(0.01, adapted=lambda name: True)), truth) < 1e-12
    assert rel(gradient(s, InnerLoop(0.01, clip=1e9)), truth) < 1e-12
    assert rel(gradient(s, step_weights=(0, 0, 1)), truth) < 1e-12
    one = per["step"] | {"layers.2.bias": per["step"]["layers.2.bias"] * 2}  # mutants
    assert rel(gradient(s, InnerLoop(one)), truth) > 1e-4
    assert rel(gradient(s, InnerLoop(0.01, adapted=lambda name: "2" in name)), truth) > 1e-4


def test_each_step_has_its_own_rate(s: Sinusoids) -> None:
    rates = [0.03, 0.01, 0.002]
    lr = {n: p.new_tensor(rates).view(3, *[1] * p.ndim) for n, p in s.params.items()}
    ends = []
    for order in (rates, rates[::-1]):
        theta = s.params
        for k, rate in enumerate(order):
            theta = adapt(s.loss, theta, [task(s.supports[k], 0)], InnerLoop(rate))
        ends.append(flat(theta))
    got = flat(p[0] for p in adapt_tasks(s.loss, s.params, s.supports, InnerLoop(lr)).values())
    assert rel(got, ends[0]) < 1e-12
    assert rel(got, ends[1]) > 1e-4  # mutant: the steps in reverse


def test_unmapped_half_sums_reduce_to_the_whole(s: Sinusoids) -> None:
    """Two ranks, each with its own tasks, one after the other: unequal parts, one mean."""
    inner = dataclasses.replace(INNER, clip=1.0)
    whole = gradient(s, inner)
    parts = [subset(s, [0]), subset(s, [1, 2, 3])]
    sent: list[Tensor] = []

    def record(x: Tensor) -> Tensor:
        sent.append(x)
        return x

    for part in parts:
        gradient(part, inner, reduce=record)
    total = sent[0] + sent[1]
    for part in parts:
        assert rel(gradient(part, inner, reduce=lambda x: total), whole) < 1e-12
    # Mutant: means of ranks averaged as if each rank had as many tasks.
    averaged = sum(gradient(part, inner) for part in parts) / 2
    assert rel(averaged, whole) > 1e-3

    def fn(theta: Params, data: Any) -> tuple[Tensor, Tensor]:
        loss = s.loss(adapt(s.loss, theta, data[:1], inner), data[1])
        return loss, 0 * loss

    sent.clear()
    for part in parts:
        mean_over_tasks(fn, (part.supports[0], part.query), reduce=record).gradient(s.params)
    total = sent[0] + sent[1]
    first = mean_over_tasks(
        fn, (parts[0].supports[0], parts[0].query), reduce=lambda x: total
    ).gradient(s.params)
    truth = mean_over_tasks(fn, (s.supports[0], s.query)).gradient(s.params)
    assert rel(flat(first[2]), flat(truth[2])) < 1e-12
    assert rel(first[0], truth[0]) < 1e-12
    # Mutant: the all-reduced loss; its derivative is that of the rank's own tasks only.
    own = mean_over_tasks(fn, (parts[0].supports[0], parts[0].query)).gradient(s.params)
    assert rel(flat(own[2]) / 4, flat(truth[2])) > 0.1
