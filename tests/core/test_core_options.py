"""Every option of the inner loop and the meta-loss, alone and composed."""

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from oracles import F64, directional, draw, flat, rel, sinusoids, slope, task
from torch import Tensor
from torch.func import functional_call

from metarl import (
    InnerLoop,
    InputError,
    adapt,
    adapt_path,
    adapt_tasks,
    adaptation_curve,
    compiling,
    extended_rates,
    learned_rates,
    mapping,
    mean_over_tasks,
    meta_gradient,
    meta_loss,
    resolve_mapping,
    split_rates,
)
from metarl.adaptation import split_inner
from metarl.gauss_newton import GaussNewton
from metarl.mapping import Mapping
from metarl.nets import MLP
from metarl.params import Params
from metarl.supervised import Regression

S = sinusoids(width=6)
COMPOSED = [
    *itertools.product(("sgd", "momentum", "adam"), (None, 0.5), ("tensor", "element"), (None, 3))
]


def half(name: str) -> bool:
    return "layers.1" in name or "layers.2" in name


@pytest.mark.parametrize(("optimizer", "clip", "per", "steps"), COMPOSED)
def test_options_compose(optimizer: Any, clip: float | None, per: Any, steps: int | None) -> None:
    adapted = {n: p for n, p in S.params.items() if half(n)}
    theta = S.params | learned_rates(adapted, 0.003, per=per, steps=steps)
    inner = InnerLoop(0.7, optimizer=optimizer, clip=clip, adapted=half)

    def f(theta: Params, inner: InnerLoop = inner) -> Any:
        return meta_loss(
            S.loss, S.loss, theta, S.supports, S.query, inner, step_weights=(0.2, 0.3, 0.5)
        )

    g = slope(f(theta), theta)
    v = 0.3 * draw(4, len(g), seed=1)
    assert rel(v @ g, directional(f, theta, v)) < 1e-7
    moved = adapt_tasks(S.loss, theta, S.supports, inner)
    for n, p in S.params.items():
        assert torch.equal(moved[n], p.expand_as(moved[n])) != half(n)
    # First order differs in theta only as far as curvature matters, and still learns the rates.
    first_order = slope(f(theta, dataclasses.replace(inner, first_order=True)), theta)
    assert bool(torch.isfinite(first_order).all())
    assert rel(v @ first_order, directional(f, theta, v)) > 1e-6  # mutant
    assert float(first_order[-len(flat(split_rates(theta)[1])) :].abs().sum()) > 0


@pytest.mark.parametrize("clipped", [True, False])
def test_one_clipped_step_is_torchs(clipped: bool) -> None:
    params = {n: p.detach().clone().requires_grad_() for n, p in S.params.items()}
    one = task(S.supports[0], 0)
    S.loss(params, one).backward()
    norm = flat(p.grad for p in params.values() if p.grad is not None).norm()
    bound = float(norm) * (0.7 if clipped else 1.5)
    moved = adapt(S.loss, S.params, [one], InnerLoop(0.1, clip=bound))
    torch.nn.utils.clip_grad_norm_(params.values(), bound)
    torch.optim.SGD(params.values(), lr=0.1).step()
    assert rel(flat(moved) - flat(S.params), flat(params) - flat(S.params)) < 1e-12


def test_step_sizes_by_name_are_numbers_or_tensors() -> None:
    by_name = {n: 0.1 if "bias" in n else torch.tensor(0.1, dtype=F64) for n in S.params}
    found, one = (adapt_tasks(S.loss, S.params, S.supports, InnerLoop(lr)) for lr in (by_name, 0.1))
    assert all(torch.allclose(found[n], one[n], rtol=1e-12) for n in one)


def test_rates_take_the_type_of_their_parameters() -> None:
    """Numbers by name are no part of a compiled program, and wider tensors widen nothing."""
    params = {n: p.detach().float() for n, p in S.params.items()}
    narrow = [Regression(*(x.float() for x in support)) for support in S.supports[:1]]
    first, *others = params
    for rate in (0.1, torch.full_like(params[first], 0.1, dtype=F64)):
        inner = InnerLoop({first: rate, **dict.fromkeys(others, 0.1)})
        assert all(isinstance(x, Tensor) for x in split_inner(inner, params)[1].values())
        for adapted in (
            adapt_tasks(S.loss, params, narrow, inner),
            adapt(S.loss, params, [task(narrow[0], 0)], inner),
        ):
            assert {p.dtype for p in adapted.values()} == {torch.float32}


def test_rates_are_learned_by_torch_optim() -> None:
    params = {n: p.detach().clone().requires_grad_() for n, p in S.params.items()}
    theta = params | learned_rates(params, 0.01, per="element", steps=3)
    optimizer = torch.optim.Adam(theta.values(), lr=3e-3, fused=True)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = meta_loss(S.loss, S.loss, theta, S.supports, S.query, InnerLoop())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert all(bool((r != 0.01).any()) for r in split_rates(theta)[1].values())


def test_multi_step_loss_and_its_annealing() -> None:
    per_step = [
        slope(
            meta_loss(S.loss, S.loss, S.params, S.supports[:k], S.query, InnerLoop(0.01)), S.params
        )
        for k in (1, 2, 3)
    ]
    for weights in ((0.2, 0.3, 0.5), (0.0, 0.1, 0.9)):
        got = meta_loss(
            S.loss, S.loss, S.params, S.supports, S.query, InnerLoop(0.01), step_weights=weights
        )
        truth = sum(w * g for w, g in zip(weights, per_step, strict=True))
        assert rel(slope(got, S.params), truth) < 1e-12
        assert rel(slope_of(weights[::-1]), truth) > 1e-4  # mutant
    # Derivative-order annealing: first order for a while, then second, of the same options.
    inner = InnerLoop(0.01, first_order=True)
    for epoch, first_order in ((0, True), (5, False)):
        now = dataclasses.replace(inner, first_order=epoch < 3)
        got = meta_loss(S.loss, S.loss, S.params, S.supports, S.query, now)
        assert (rel(slope(got, S.params), per_step[2]) < 1e-12) is not first_order


def slope_of(weights: tuple[float, ...]) -> Tensor:
    loss = meta_loss(
        S.loss, S.loss, S.params, S.supports, S.query, InnerLoop(0.01), step_weights=weights
    )
    return slope(loss, S.params)


class Stepped(NamedTuple):
    x: Tensor  # (task, point, 3)
    step: Any


class Measures(NamedTuple):
    loss: Tensor
    size: Tensor


@pytest.mark.parametrize("text", ["vmap", "chunk:1", "chunk:2"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_step_index_is_data(text: str, as_tensor: bool) -> None:
    theta = {"w": draw(3, seed=1).requires_grad_(), "gain": draw(2, seed=2).requires_grad_()}
    x = draw(4, 5, 3, seed=3)

    def loss(params: Params, b: Stepped) -> Tensor:
        gain = params["gain"][torch.as_tensor(b.step).reshape(1)]  # torch 2.6 maps no scalar index
        return ((b.x @ params["w"]) * gain).square().mean()

    def outer(params: Params, b: Stepped) -> Measures:
        return Measures(loss(params, b), params["w"].norm())

    def batches(shift: float) -> list[Stepped]:
        steps = [torch.full((4,), k) if as_tensor else k for k in range(2)]
        return [Stepped(x + shift, k) for k in steps]

    supports, queries = batches(0.0), batches(1.0)
    inner = InnerLoop(0.1)
    got = meta_loss(
        loss, outer, theta, supports, queries, inner, step_weights=(0.3, 0.7), mapping=text
    )
    total, sizes = torch.zeros((), dtype=F64), []
    for i in range(4):
        one = adapt(loss, theta, [task(supports[0], i)], inner)
        two = adapt(loss, theta, [task(b, i) for b in supports], inner)
        total = total + 0.3 * loss(one, task(queries[0], i)) + 0.7 * loss(two, task(queries[1], i))
        sizes.append(two["w"].norm())
    assert rel(slope(got, theta), slope(total / 4, theta)) < 1e-12
    assert rel(got.size, torch.stack(sizes).mean()) < 1e-12
    assert not got.size.requires_grad


def test_a_batch_that_is_a_list_is_one_batch() -> None:
    """What a ``DataLoader`` makes of pairs; a list of batches is one for each step."""
    s = sinusoids(tasks=2, width=6)
    inner = InnerLoop(0.05)

    def listed(batch: Any) -> Any:
        return list(batch)

    def loss(params: Params, batch: Any) -> Tensor:
        return s.loss(params, Regression(*batch))

    lists = [listed(b) for b in s.supports]
    curve = adaptation_curve(loss, loss, s.params, lists[:1], listed(s.query), inner)
    assert torch.equal(
        curve, adaptation_curve(s.loss, s.loss, s.params, s.supports[:1], s.query, inner)
    )
    several = [s.query, s.supports[1]]
    assert torch.equal(
        adaptation_curve(loss, loss, s.params, lists[:1], [listed(b) for b in several], inner),
        adaptation_curve(s.loss, s.loss, s.params, s.supports[:1], several, inner),
    )
    for weights in (None, (0.2, 0.8)):
        found, expected = (
            meta_loss(fn, fn, s.params, b[:2], q, inner, step_weights=weights)
            for fn, b, q in ((loss, lists, listed(s.query)), (s.loss, s.supports, s.query))
        )
        assert torch.equal(found, expected)


def test_evaluating_beyond_the_trained_steps() -> None:
    theta = S.params | learned_rates(S.params, 0.01, per="tensor", steps=2)
    with torch.no_grad():
        for n, r in split_rates(theta)[1].items():
            r[1] = 0.002 if "weight" in n else 0.004
    params, inner = extended_rates(theta, InnerLoop(), trained_steps=2, steps=5, factors=[0.5])
    batch = S.supports[0]
    path = adapt_path(S.loss, params, [batch] * 5, inner)
    short = adapt_path(S.loss, theta, [batch] * 2, InnerLoop())
    here = {n: p[0] for n, p in path[2].items()}
    assert rel(flat(here), flat(p[0] for p in short[2].values())) < 1e-12
    for k in range(2, 5):
        g = torch.func.grad(S.loss)(here, task(batch, 0))
        here = {n: p - (0.001 if "weight" in n else 0.002) * g[n] for n, p in here.items()}
        assert rel(flat(p[0] for p in path[k + 1].values()), flat(here)) < 1e-12


def test_batches_may_come_from_an_iterator() -> None:
    inner = InnerLoop(0.1)
    options = {"params": S.params, "query": S.query, "inner": inner}
    one = task(S.supports[0], 0)
    for give in (iter, lambda supports: (batch for batch in supports)):
        found = meta_loss(S.loss, S.loss, supports=give(S.supports), **options)
        assert torch.equal(found, meta_loss(S.loss, S.loss, supports=S.supports, **options))
        curve = adaptation_curve(S.loss, S.loss, supports=give(S.supports), **options)
        assert len(curve) == len(S.supports) + 1
    adapted = adapt(S.loss, S.params, itertools.repeat(one, 2), inner)
    for name, p in adapt(S.loss, S.params, [one] * 2, inner).items():
        assert torch.equal(adapted[name], p)
        assert not torch.equal(p, S.params[name])


def test_transforms_of_torch_func_see_no_compiler() -> None:
    def total(params: Params, text: str) -> Tensor:
        adapted = adapt_tasks(S.loss, params, S.supports, InnerLoop(0.1), mapping=text)
        return torch.cat([p.reshape(-1) for p in adapted.values()]).square().sum()

    for text in ("auto+compile", "vmap+compile", "chunk:2+compile"):
        found, truth = (torch.func.grad(total)(S.params, how) for how in (text, "vmap"))
        assert rel(flat(list(found.values())), flat(list(truth.values()))) < 1e-12


class Scored(NamedTuple):
    loss: Tensor
    score: Tensor


def test_gradients_have_the_types_of_the_parameters() -> None:
    params = {"w": torch.ones(2), "s": torch.ones((), dtype=F64)}
    batch = (torch.ones(3, 2),)

    def loss(p: Params, batch: tuple[Tensor]) -> Scored:
        (x,) = batch
        return Scored((p["w"] * x).sum().square() * p["s"].float(), x.double().sum())

    for reduce in (None, lambda x: x):
        outputs, gradient = meta_gradient(
            loss, loss, params, [batch], batch, InnerLoop(0.1), reduce=reduce
        )
        assert {n: g.dtype for n, g in gradient.items()} == {n: p.dtype for n, p in params.items()}
        assert (outputs.loss.dtype, outputs.score.dtype) == (torch.float32, F64)


def test_functional_call_and_no_grad() -> None:
    net = MLP((1, 6, 1), activation="tanh").to(F64)
    theta = dict(net.named_parameters())

    def loss(params: Params, b: Any) -> Tensor:
        out: Tensor = functional_call(net, params, (b.x,))
        return (out - b.y).square().mean()

    meta_loss(loss, loss, theta, S.supports, S.query, InnerLoop(0.01)).backward()
    assert all(p.grad is not None for p in net.parameters())
    with torch.no_grad():
        assert not meta_loss(loss, loss, theta, S.supports, S.query, InnerLoop()).requires_grad
        assert not adapt_tasks(loss, theta, S.supports, InnerLoop())["layers.0.bias"].requires_grad


@pytest.mark.parametrize("text", ["chunk:1", "threads"])
def test_workers_keep_the_callers_grad_mode(text: str) -> None:
    seen: set[bool] = set()

    def fn(theta: Params, x: Tensor) -> tuple[Tensor, Tensor]:
        seen.add(torch.is_grad_enabled())
        return theta["w"] @ x, theta["w"] @ x

    torch.set_num_threads(2)
    theta = {"w": torch.ones(3, requires_grad=True)}
    loss, _ = mean_over_tasks(fn, torch.ones(6, 3), mapping=text).value(theta)
    torch.set_num_threads(1)
    assert seen == {False}
    assert not loss.requires_grad


@pytest.mark.parametrize("text", ["vmap", "chunk:1"])
def test_autocast_reaches_every_task(text: str) -> None:
    seen = []

    def fn(theta: Params, x: Tensor) -> tuple[Tensor, Tensor]:
        loss = (theta["w"] @ x).sum()
        seen.append((theta["w"] @ x).dtype)
        return loss.float(), loss.float()

    def outputs(theta: Params, x: Tensor) -> Tensor:
        return fn(theta, x)[0]

    fisher = GaussNewton(outputs, lambda here, there, _: 0.5 * (here - there).square())
    torch.set_num_threads(2)
    theta = {"w": torch.ones(3, 3)}
    with torch.autocast("cpu"):
        objective = mean_over_tasks(fn, torch.ones(4, 3, 3), fisher=fisher, mapping=text)
        objective.value(theta)
        objective.fisher(theta, theta)
    torch.set_num_threads(1)
    assert set(seen) == {torch.bfloat16}


def test_auto_is_a_function_of_shapes_and_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = torch.empty(40, 20), torch.empty(40, 20_000)
    monkeypatch.setattr(mapping, "compiler_present", lambda: True)
    assert resolve_mapping("auto", small) == Mapping("vmap", 0, False)
    assert resolve_mapping("auto", large) == Mapping("chunk", 1, False)
    assert str(resolve_mapping("auto+compile", large)) == "threads+compile"
    assert str(resolve_mapping("auto+compile", large[:1])) == "vmap+compile"
    assert str(resolve_mapping("chunk:7+compile", large)) == "chunk:7+compile"
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiling.compiler_present.cache_clear()
    assert str(resolve_mapping("vmap+compile", small)) == "vmap"
    compiling.compiler_present.cache_clear()


@pytest.mark.parametrize("missing", ["nothing", "compiler", "Python.h", "omp.h"])
def test_nothing_compiles_without_compiler_or_headers(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper, compiler = tmp_path / "c++", os.environ.get("CXX", "c++")
    (tmp_path / missing).write_text("#error not installed\n")
    wrapper.write_text(f'#!/bin/sh\nexec {compiler} -I "{tmp_path}" "$@"\n')
    wrapper.chmod(0o755 if missing != "compiler" else 0o644)
    before = compiling.compiler_present()
    monkeypatch.setenv("CXX", str(wrapper))
    compiling.compiler_present.cache_clear()
    assert compiling.compiler_present() == (before and missing == "nothing")
    compiling.compiler_present.cache_clear()


def test_a_curve_of_no_steps_and_of_every_item() -> None:
    unadapted = adaptation_curve(S.loss, S.loss, S.params, [], S.query, InnerLoop())
    whole = adaptation_curve(S.loss, S.loss, S.params, S.supports, S.query, InnerLoop())
    assert unadapted.shape == (1, 4)
    assert torch.equal(unadapted[0], whole[0])

    def each_item(params: Params, batch: Regression) -> Tensor:
        items = [S.loss(params, Regression(x[None], y[None])) for x, y in zip(*batch, strict=True)]
        return torch.stack(items)

    items = adaptation_curve(S.loss, each_item, S.params, S.supports, S.query, InnerLoop())
    assert items.shape == (4, 4, 5)  # step, task, query item
    assert rel(items.mean(-1), whole) < 1e-12
    with pytest.raises(InputError, match="outer_loss returned a value of type float"):
        adaptation_curve(S.loss, lambda p, b: 1.0, S.params, S.supports, S.query, InnerLoop())


def test_a_resolved_mapping_serves_as_one() -> None:
    resolved = resolve_mapping("chunk:2", S.query)
    for name in (resolved, str(resolved)):
        loss = meta_loss(S.loss, S.loss, S.params, S.supports, S.query, InnerLoop(), mapping=name)  # type: ignore[arg-type]
        assert torch.isfinite(loss)
