"""Conjugate gradient, the line search, steps that must not be taken and errors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import F64, draw, rel
from torch import Tensor

from metarl import (
    NonFiniteError,
    Objective,
    StepInfo,
    conjugate_gradient,
    mean_over_tasks,
    trust_region_step,
)
from metarl.params import Params

GOAL = {"a": draw(2, 2, seed=1), "b": draw(3, seed=2)}


def bowl(**replaced: Any) -> Objective:
    """``1/2 |theta - goal|^2``, KL and Fisher matrix those of unit Gaussians."""

    def value(theta: Params) -> Any:
        square = sum((theta[n] - GOAL[n]).square().sum() for n in GOAL)
        return 0.5 * square, 0.5 * sum(theta[n].square().sum() for n in GOAL)

    def gradient(theta: Params) -> Any:
        return *value(theta), {n: theta[n] - GOAL[n] for n in GOAL}

    return Objective(value, gradient, lambda theta, v: v)._replace(**replaced)


def zero() -> Params:
    return {n: torch.zeros_like(p) for n, p in GOAL.items()}


def step(objective: Objective, **options: Any) -> tuple[Params, StepInfo]:
    theta = zero()
    moved, info = trust_region_step(objective, theta, max_kl=0.01, **options)
    if not info.accepted:
        assert moved is theta
        assert all(torch.equal(moved[n], x) for n, x in zero().items())
        assert (info.loss, info.kl) == (info.loss_before, 0.0)
    return moved, info


def test_the_bowl_is_descended() -> None:
    # A hair more than the true curvature, for rounding may put the full step outside the region.
    hair = bowl(fisher=lambda theta, v: {n: x * (1 + 1e-9) for n, x in v.items()})
    moved, info = step(hair, damping=0.0)
    assert info.accepted
    assert info.backtracks == 0
    assert info.kl == pytest.approx(0.01, rel=1e-8)
    norm = torch.cat([g.reshape(-1) for g in GOAL.values()]).norm()
    assert info.gradient_norm == pytest.approx(float(norm))
    assert info.expected == pytest.approx(0.02**0.5 * float(norm))
    for n, g in GOAL.items():
        assert torch.allclose(moved[n], 0.02**0.5 * g / norm, rtol=1e-8)


@pytest.mark.parametrize(
    "value",
    [
        lambda theta: (torch.tensor(1e9), torch.tensor(0.0)),  # nothing improves
        lambda theta: (torch.tensor(-1e9), torch.tensor(1.0)),  # everything is too far
        lambda theta: (torch.tensor(torch.nan), torch.tensor(0.0)),
        lambda theta: (torch.tensor(-1e9), torch.tensor(torch.nan)),
    ],
    ids=["worse", "far", "loss not finite", "KL not finite"],
)
def test_rejected_steps_leave_the_parameters(value: Any) -> None:
    _, info = step(bowl(value=value), backtracks=7)
    assert not info.accepted
    assert info.backtracks == 7


@pytest.mark.parametrize(("shrink", "tried"), [(0.5, 2), (0.8, 6)])
def test_line_search_takes_the_first_that_fits(shrink: float, tried: int) -> None:
    """The Fisher matrix is a sixteenth of the truth, so full steps are four times too long."""
    objective = bowl(fisher=lambda theta, v: {n: x / 16 for n, x in v.items()})
    _, info = step(objective, damping=0.0, shrink=shrink)
    assert info.accepted
    assert info.kl <= 0.01
    assert info.backtracks in (tried, tried + 1)


def test_no_step_without_gradient_or_curvature() -> None:
    def flat_gradient(theta: Params) -> Any:
        return *bowl().value(theta), zero()

    assert not step(bowl(gradient=flat_gradient))[1].accepted
    hollow = bowl(fisher=lambda theta, v: {n: -x for n, x in v.items()})
    assert not step(hollow)[1].accepted
    assert step(hollow, damping=2.0)[1].accepted  # damping makes it a bowl again


def test_parameters_keep_their_types() -> None:
    theta = {name: p.to(torch.float32 if name == "a" else F64) for name, p in zero().items()}
    moved, info = trust_region_step(bowl(), theta, max_kl=0.01)
    assert info.accepted
    assert {n: p.dtype for n, p in moved.items()} == {n: p.dtype for n, p in theta.items()}


def test_order_of_names_does_not_matter() -> None:
    def scaled(theta: Params, v: Params) -> Params:
        return {"a": 2 * v["a"], "b": 5 * v["b"]}

    def reversed_scaled(theta: Params, v: Params) -> Params:
        return dict(reversed(scaled(theta, v).items()))

    def reversed_gradient(theta: Params) -> Any:
        *values, g = bowl().gradient(theta)
        return *values, dict(reversed(g.items()))

    truth = step(bowl(fisher=scaled))
    again = step(bowl(fisher=reversed_scaled, gradient=reversed_gradient))
    assert truth[1] == again[1]
    assert all(torch.equal(truth[0][n], again[0][n]) for n in GOAL)


def poisoned(place: str, bad: float) -> Objective:
    def gradient(theta: Params) -> Any:
        loss, kl, g = bowl().gradient(theta)
        if place == "outer gradient of b":
            g["b"][1] = bad
        there = torch.tensor(bad, dtype=F64)
        return there if place == "loss" else loss, there if place == "KL" else kl, g

    def fisher(theta: Params, v: Params) -> Params:
        return {n: x * bad for n, x in v.items()} if place == "Fisher product" else v

    return bowl(gradient=gradient, fisher=fisher)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", ["loss", "KL", "outer gradient of b", "Fisher product"])
def test_what_is_not_finite_is_named(place: str, bad: float) -> None:
    with pytest.raises(NonFiniteError, match=place) as caught:
        step(poisoned(place, bad))
    assert caught.value.place == place
    assert caught.value.exit_code == 5


def aliased(product: Callable[[Tensor], Tensor], b: Tensor, steps: int) -> Tensor:
    """Mutant: conjugate gradient whose residual is its right-hand side."""
    x, r, p = torch.zeros_like(b), b, b.clone()
    for _ in range(steps):
        rr, ap = r.dot(r), product(p)
        x += rr / p.dot(ap) * p
        r -= rr / p.dot(ap) * ap
        p = r + r.dot(r) / rr * p
    return x


def test_conjugate_gradient() -> None:
    n = 12
    root = draw(n, n, seed=1)
    A, b = root @ root.T + torch.eye(n, dtype=F64), draw(n, seed=2)
    kept, state = b.clone(), torch.get_rng_state()
    x, residual = conjugate_gradient(lambda p: A @ p, b, steps=3 * n, tolerance=1e-30)
    assert rel(x, torch.linalg.solve(A, b)) < 1e-10
    assert torch.equal(b, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert not residual.norm() > 1e-10
    part, residual = conjugate_gradient(lambda p: A @ p, b, steps=4)
    assert rel(residual, b - A @ part) < 1e-10
    tiny, _ = conjugate_gradient(lambda p: A @ p, 1e-8 * b, steps=3 * n)
    assert rel(tiny, torch.linalg.solve(A, 1e-8 * b)) < 1e-3
    first, _ = conjugate_gradient(lambda p: A @ p, b, steps=1)
    assert rel(first, b * (b @ b) / (b @ A @ b)) < 1e-12  # it starts at zero, downhill
    indefinite = torch.diag(torch.tensor([1.0, 2.0, -5.0], dtype=F64))
    x, residual = conjugate_gradient(lambda p: indefinite @ p, torch.ones(3, dtype=F64), steps=9)
    assert rel(residual, torch.ones(3, dtype=F64) - indefinite @ x) < 1e-12
    assert torch.equal(x, torch.zeros(3, dtype=F64))
    aliased(lambda p: A @ p, b, steps=3)
    assert not torch.equal(b, kept)


def test_what_requires_no_gradient_stays() -> None:
    theta = zero()
    theta["a"].requires_grad_()  # b is frozen
    coupled = bowl(fisher=lambda theta, v: {n: x + 0.1 * v["a"].sum() for n, x in v.items()})
    with torch.no_grad():
        moved, info = trust_region_step(coupled, theta, max_kl=0.01)
    assert info.accepted
    assert torch.equal(moved["b"], theta["b"])
    assert not torch.equal(moved["a"], theta["a"])
    assert {n: p.requires_grad for n, p in moved.items()} == {"a": True, "b": False}
    assert moved["a"].untyped_storage().nbytes() == 8 * moved["a"].numel()  # no view of all


def test_no_long_step_of_rounding() -> None:
    """All tasks are solved: hardly a gradient is left, the KL is flat, and damping alone bounds."""

    def solved(theta: Params, task: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(-20 - theta["w"] @ task), 1e-9 * theta["w"].square().sum()

    objective = mean_over_tasks(solved, draw(4, 3, seed=3))
    theta = {"w": torch.zeros(3, dtype=F64)}
    # Mutant: without a resolution it goes far.
    far, info = trust_region_step(objective, theta, max_kl=0.01)
    assert 0 < info.expected < 1e-6
    assert far["w"].norm() > 10
    kept, rejected = trust_region_step(objective, theta, max_kl=0.01, resolution=1e-6)
    assert kept is theta
    assert (rejected.accepted, rejected.backtracks) == (False, 0)
    assert rejected.expected == info.expected
    assert trust_region_step(objective, theta, max_kl=0.01, resolution=info.expected / 2)[1] == info
