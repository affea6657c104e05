"""Meta-gradients and inner optimisers against closed forms, differences and torch.optim."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import (
    F64,
    Quadratic,
    directional,
    draw,
    flat,
    quadratic_loss,
    quadratics,
    rel,
    sinusoids,
    slope,
    task,
)
from torch import Tensor, nn

from metarl import InnerLoop, adapt, from_module, inner_optimizers, meta_loss, reptile_loss
from metarl.params import Params
from metarl.supervised.losses import mean_squared_error
from metarl.supervised.sinusoid import Regression

TASKS, D, ALPHA = 5, 8, 0.1


def closed_form(
    support: Quadratic, query: Quadratic, x: Tensor, steps: int, alpha: float = ALPHA
) -> dict[str, Tensor]:
    """Meta-gradients on quadratic tasks, where adaptation is a matrix power."""
    P = torch.linalg.matrix_power(torch.eye(len(x), dtype=F64) - alpha * support.A, steps)
    end = support.a + torch.einsum("tij,tj->ti", P, x - support.a)
    first_order = torch.einsum("tij,tj->ti", query.A, end - query.a)
    return {
        "maml": torch.einsum("tji,tj->ti", P, first_order).mean(0),
        "fomaml": first_order.mean(0),
        "reptile": (x - end).mean(0),
    }


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 10])
def test_quadratic_tasks(steps: int) -> None:
    support, query = quadratics(TASKS, D, seed=0), quadratics(TASKS, D, seed=10)
    params = {"x": draw(D, seed=20).requires_grad_()}
    inner = InnerLoop(ALPHA)
    truth = closed_form(support, query, params["x"].detach(), steps)

    def gradient(inner: InnerLoop) -> Tensor:
        loss = meta_loss(quadratic_loss, quadratic_loss, params, [support] * steps, query, inner)
        return slope(loss, params)

    maml, fomaml = gradient(inner), gradient(InnerLoop(ALPHA, first_order=True))
    assert rel(maml, truth["maml"]) < 1e-12
    assert rel(fomaml, truth["fomaml"]) < 1e-12
    assert rel(TASKS * truth["maml"], truth["maml"]) > 1  # mutant: missing 1 / T
    reptile = slope(reptile_loss(quadratic_loss, params, [support] * steps, inner), params)
    if steps == 0:
        assert not reptile.any()
        return
    assert rel(reptile, truth["reptile"]) < 1e-12
    assert rel(fomaml, truth["maml"]) > 1e-2  # mutant: first order for MAML
    mutant = closed_form(support, query, params["x"].detach(), steps, ALPHA / TASKS)
    assert rel(mutant["maml"], truth["maml"]) > 1e-2  # mutant: alpha / T
    assert rel(mutant["reptile"], truth["reptile"]) > 1e-2


def as_quadratic(batch: Regression) -> Quadratic:
    """Mean squared error of a linear model, as a function of (weight, bias)."""
    x = torch.cat([batch.x, torch.ones_like(batch.x[..., :1])], -1)
    A = 2 * x.mT @ x / x.shape[1]
    return Quadratic(A, torch.linalg.lstsq(x, batch.y).solution[..., 0])


@pytest.mark.parametrize("steps", [1, 3])
def test_linear_regression(steps: int) -> None:
    params, apply = from_module(nn.Linear(3, 1), dtype=F64)
    loss = mean_squared_error(apply)
    support, query = (
        Regression(draw(TASKS, 10, 3, seed=s), draw(TASKS, 10, 1, seed=s + 1)) for s in (0, 2)
    )
    truth = closed_form(as_quadratic(support), as_quadratic(query), flat(params), steps)
    got = {
        name: slope(meta_loss(loss, loss, params, [support] * steps, query, inner), params)
        for name, inner in {
            "maml": InnerLoop(ALPHA),
            "fomaml": InnerLoop(ALPHA, first_order=True),
        }.items()
    }
    got["reptile"] = slope(reptile_loss(loss, params, [support] * steps, InnerLoop(ALPHA)), params)
    for name, gradient in got.items():
        assert rel(gradient, truth[name]) < 1e-10
    assert rel(got["fomaml"], truth["maml"]) > 1e-2  # mutant


def test_finite_differences() -> None:
    s = sinusoids(steps=5)

    def f(params: Params, first_order: bool = False) -> Any:
        inner = InnerLoop(0.01, first_order=first_order)
        return meta_loss(s.loss, s.loss, params, s.supports, s.query, inner)

    g = slope(f(s.params), s.params)
    v = draw(10, len(g), seed=3)
    differences = directional(f, s.params, v)
    assert rel(v @ g, differences) < 1e-7
    mutant = slope(f(s.params, first_order=True), s.params)
    assert torch.cosine_similarity(mutant, g, dim=0) > 0.7  # which is why cosines prove nothing
    assert rel(v @ mutant, differences) > 0.1


def test_one_step_explicit_hessian() -> None:
    s = sinusoids(width=5, steps=1)
    names, alpha = list(s.params), 0.05

    def of_vector(batch: Any) -> Callable[[Tensor], Tensor]:
        def f(x: Tensor) -> Tensor:
            parts = torch.split(x, [p.numel() for p in s.params.values()])
            return s.loss(
                {n: part.view_as(s.params[n]) for n, part in zip(names, parts, strict=True)}, batch
            )

        return f

    x = flat(s.params)
    truth, mutant = [], []
    for i in range(4):
        train, test = of_vector(task(s.supports[0], i)), of_vector(task(s.query, i))
        end = x - alpha * torch.func.grad(train)(x)
        outer = torch.func.grad(test)(end)
        truth.append(outer - alpha * torch.func.jacrev(torch.func.grad(train))(x) @ outer)
        mutant.append(outer - alpha * torch.func.jacrev(torch.func.grad(train))(end) @ outer)
    g = slope(meta_loss(s.loss, s.loss, s.params, s.supports, s.query, InnerLoop(alpha)), s.params)
    assert rel(g, torch.stack(truth).mean(0)) < 1e-12
    assert rel(g, torch.stack(mutant).mean(0)) > 1e-4  # mutant: Hessian where the step ends


def test_first_order_limit() -> None:
    s = sinusoids(width=10, steps=1)

    def gap(loss: Any, alpha: float) -> float:
        gradients = [
            slope(
                meta_loss(
                    loss, s.loss, s.params, s.supports, s.query, InnerLoop(alpha, first_order=fo)
                ),
                s.params,
            )
            for fo in (False, True)
        ]
        return float(torch.linalg.vector_norm(gradients[0] - gradients[1]))

    def linear(params: Params, batch: Regression) -> Tensor:
        return batch.y.mean() * torch.stack([p.sum() for p in params.values()]).sum()

    assert abs(gap(s.loss, 1e-3) / gap(s.loss, 5e-4) / 2 - 1) < 0.01
    assert gap(linear, 0.1) == 0


OPTIMS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.03),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.03),
}


@pytest.mark.parametrize("name", OPTIMS)
def test_inner_optimizers_are_those_of_torch(name: Any) -> None:
    s = sinusoids(width=10, steps=7)
    batch = task(s.query, 0)
    got = flat(adapt(s.loss, s.params, [batch] * 7, InnerLoop(0.03, optimizer=name)))
    for reference, build in OPTIMS.items():
        copies = {n: p.detach().clone().requires_grad_() for n, p in s.params.items()}
        optimizer = build(list(copies.values()))
        for _ in range(7):
            optimizer.zero_grad()
            s.loss(copies, batch).backward()
            optimizer.step()
        start = flat(s.params)
        assert (rel(got - start, flat(copies) - start) < 1e-12) == (reference == name)


def dead_tasks() -> tuple[Params, Callable[[Params, Any], Tensor], Tensor]:
    """A ReLU net with a dead unit and an unused parameter; batches (x, weight of the loss)."""
    params = {"w": draw(2, 6, seed=1), "b": draw(6, seed=2), "v": draw(6, seed=3), "u": draw(3)}
    params["w"][:, 0], params["b"][0] = 0.1, -50.0

    def loss(params: Params, batch: Tensor) -> Tensor:
        hidden = torch.relu(batch[:, :2] @ params["w"] + params["b"])
        return (batch[:, 3] * (hidden @ params["v"] - batch[:, 2]).square()).mean()

    return {n: p.requires_grad_() for n, p in params.items()}, loss, draw(4, 9, 4, seed=5)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("name", OPTIMS)
@pytest.mark.parametrize("zero", [False, True], ids=["some gradient", "all zero"])
def test_meta_gradient_is_finite_where_gradients_vanish(
    name: Any, clip: float | None, zero: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, loss, data = dead_tasks()
    support = data.clone()
    support[..., 3] = 0 if zero else 1

    def f(params: Params) -> Any:
        inner = InnerLoop(0.001, optimizer=name, clip=clip)
        return meta_loss(loss, loss, params, [support] * 2, data, inner)

    g = slope(f(params), params)
    v = draw(10, len(g), seed=7)
    assert rel(v @ g, directional(f, params, v)) < 1e-7
    if name == "adam":
        monkeypatch.setattr(inner_optimizers, "_root", torch.sqrt)  # mutant: unguarded
        assert not bool(torch.isfinite(slope(f(params), params)).all())
