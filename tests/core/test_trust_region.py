"""Fisher products and the trust-region step of adapting policies against dense algebra."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from oracles import F64, draw, flat, rel, task
from torch import Tensor

from metarl import (
    InnerLoop,
    adapt,
    conjugate_gradient,
    mean_over_tasks,
    trust_region_step,
)
from metarl.gauss_newton import GaussNewton
from metarl.params import Params

TASKS, STEPS, OBS, ACT = 3, 20, 3, 2
INNER = InnerLoop(0.3)


class Batch(NamedTuple):
    observations: Tensor  # (task, step, OBS)
    actions: Tensor  # (task, step, ACT)
    advantages: Tensor  # (task, step)
    mean: Tensor  # (task, step, ACT), of the old adapted policy
    log_std: Tensor  # (task, ACT)


def policy(params: Params, observations: Tensor) -> tuple[Tensor, Tensor]:
    return torch.tanh(observations @ params["w"]) @ params["v"], params["log_std"]


def log_prob(params: Params, b: Batch) -> Tensor:
    mean, log_std = policy(params, b.observations)
    return (-0.5 * ((b.actions - mean) / log_std.exp()).square() - log_std).sum(-1)


def inner_loss(params: Params, b: Batch) -> Tensor:
    return -(log_prob(params, b) * b.advantages).mean()


def kl(p: tuple[Tensor, Tensor], q: tuple[Tensor, Tensor]) -> Tensor:
    (m, s), (n, t) = p, q
    return (t - s + ((2 * s).exp() + (m - n).square()) / (2 * (2 * t).exp()) - 0.5).sum(-1).mean()


def after(theta: Params, b: Batch) -> tuple[Tensor, Tensor]:
    """Surrogate and KL of the adapted policy; the support is the query, which keeps this short."""
    moved = adapt(inner_loss, theta, [b], INNER)
    old = (b.mean, b.log_std.expand_as(b.mean))
    mean, log_std = policy(moved, b.observations)
    ratio = torch.exp(log_prob(moved, b) - log_prob_of(old, b))
    return -(ratio * b.advantages).mean(), kl(old, (mean, log_std.expand_as(mean)))


def log_prob_of(p: tuple[Tensor, Tensor], b: Batch) -> Tensor:
    return (-0.5 * ((b.actions - p[0]) / p[1].exp()).square() - p[1]).sum(-1)


def start() -> tuple[Params, Batch]:
    theta = {"w": draw(OBS, 4, seed=1), "v": draw(4, ACT, seed=2), "log_std": draw(ACT, seed=3)}
    theta["log_std"] *= 0.2
    data = Batch(
        draw(TASKS, STEPS, OBS, seed=4),
        draw(TASKS, STEPS, ACT, seed=5),
        draw(TASKS, STEPS, seed=6),
        torch.zeros(TASKS, STEPS, ACT, dtype=F64),
        torch.zeros(TASKS, ACT, dtype=F64),
    )
    olds = [
        policy(adapt(inner_loss, theta, [task(data, i)], INNER), data.observations[i])
        for i in range(TASKS)
    ]
    means, log_stds = (torch.stack(x) for x in zip(*olds, strict=True))
    return theta, data._replace(mean=means, log_std=log_stds)


def distribution(theta: Params, b: Batch) -> tuple[Tensor, Tensor]:
    mean, log_std = policy(adapt(inner_loss, theta, [b], INNER), b.observations)
    return mean, log_std.expand_as(mean)


def unflat(x: Tensor, like: Params) -> Params:
    parts = torch.split(x, [p.numel() for p in like.values()])
    return {n: part.view_as(p) for (n, p), part in zip(like.items(), parts, strict=True)}


def jacobian(f: Callable[[Params], Any], theta: Params) -> Tensor:
    def g(x: Tensor) -> Tensor:
        out = f(unflat(x, theta))
        return torch.cat([y.reshape(-1) for y in (out.values() if isinstance(out, dict) else out)])

    dense: Tensor = torch.func.jacrev(g)(flat(theta))
    return dense


def dense_fisher(theta: Params, b: Batch) -> Tensor:
    """Of one task's policy at its parameters: mean over steps of J' diag(1/sigma^2) J, and 2 I."""
    J = jacobian(lambda p: policy(p, b.observations), theta)
    precision = (-2 * theta["log_std"]).exp().repeat(STEPS) / STEPS
    weight = torch.cat([precision, torch.full((ACT,), 2.0, dtype=F64)])
    return J.T @ (weight[:, None] * J)


def dense_of(fisher: Callable[[Params, Params], Params], theta: Params) -> Tensor:
    n = len(flat(theta))
    columns = [flat(fisher(theta, unflat(e, theta))) for e in torch.eye(n, dtype=F64)]
    return torch.stack(columns, 1)


def adapted_fisher(theta: Params, data: Batch) -> tuple[Tensor, Tensor]:
    """Mean over tasks of J_U' F J_U, and the mutant F."""
    whole, alone = [], []
    for i in range(TASKS):
        b = task(data, i)
        F = dense_fisher(adapt(inner_loss, theta, [b], INNER), b)
        J = jacobian(lambda p, b=b: adapt(inner_loss, p, [b], INNER), theta)
        whole.append(J.T @ F @ J)
        alone.append(F)
    return torch.stack(whole).mean(0), torch.stack(alone).mean(0)


def test_fisher_of_a_gaussian_policy() -> None:
    theta, data = start()
    own = [policy(theta, o) for o in data.observations]
    data = data._replace(
        mean=torch.stack([m for m, _ in own]), log_std=torch.stack([s for _, s in own])
    )

    def fn(theta: Params, b: Batch) -> tuple[Tensor, Tensor]:
        mean, log_std = policy(theta, b.observations)
        d = kl((b.mean, b.log_std.expand_as(b.mean)), (mean, log_std.expand_as(mean)))
        return d, d

    truth = torch.stack([dense_fisher(theta, task(data, i)) for i in range(TASKS)]).mean(0)
    for mapping in ("vmap", "chunk:1"):
        got = dense_of(mean_over_tasks(fn, data, mapping=mapping).fisher, theta)
        assert rel(got, truth) < 1e-10
    assert rel(truth / ACT, truth) > 0.1  # mutant: KL averaged over action dimensions


def test_fisher_of_a_categorical_policy() -> None:
    theta = {"w": draw(OBS, 5, seed=1)}
    x = draw(TASKS, STEPS, OBS, seed=4)
    old = torch.log_softmax(x @ theta["w"], -1)

    def fn(theta: Params, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        new = torch.log_softmax(data[0] @ theta["w"], -1)
        d = (data[1].exp() * (data[1] - new)).sum(-1).mean()
        return d, d

    scores = jacobian(lambda p: [torch.log_softmax(x @ p["w"], -1)], theta)
    probabilities = old.exp().reshape(-1) / (TASKS * STEPS)
    truth = scores.T @ (probabilities[:, None] * scores)
    assert rel(dense_of(mean_over_tasks(fn, (x, old)).fisher, theta), truth) < 1e-10


@pytest.mark.parametrize("route", ["hessian of the KL", "Gauss-Newton"])
def test_fisher_through_adaptation(route: str) -> None:
    theta, data = start()
    truth, mutant = adapted_fisher(theta, data)
    gauss_newton = GaussNewton(distribution, lambda here, there, b: kl(here, there))
    given = gauss_newton if route == "Gauss-Newton" else None
    got = dense_of(mean_over_tasks(after, data, fisher=given).fisher, theta)
    assert rel(got, truth) < 1e-10
    assert rel(mutant, truth) > 0.05  # mutant: F alone


def evaluated(theta: Params, data: Batch) -> tuple[float, float]:
    both = [after(theta, task(data, i)) for i in range(TASKS)]
    return tuple(float(torch.stack(x).mean()) for x in zip(*both, strict=True))  # type: ignore[return-value]


def test_products_are_those_of_the_theta_given() -> None:
    gauss_newton = GaussNewton(
        lambda theta, x: theta["w"].square() * x, lambda here, there, _: (here - there).square()
    )
    x = draw(2, 3)
    objective = mean_over_tasks(
        lambda theta, x: (theta["w"].sum(), theta["w"].sum()), x, fisher=gauss_newton
    )
    w = torch.ones((), dtype=F64)
    # Each theta is gone before the next comes, and leaves it its place in memory.
    found = [float(objective.fisher({"w": w * s}, {"w": w})["w"]) for s in (1, 2, 3)]
    # The second derivative of (w^2 x - c)^2 where it is 0 is 8 w^2 x^2.
    truth = [8 * s**2 * float(x.square().sum(1).mean()) for s in (1, 2, 3)]
    assert found == pytest.approx(truth)


def test_a_theta_changed_in_place_is_another() -> None:
    gauss_newton = GaussNewton(
        lambda theta, x: theta["w"].square() * x, lambda here, there, _: (here - there).square()
    )
    w = torch.ones((), dtype=F64)
    objective = mean_over_tasks(
        lambda theta, x: (theta["w"].sum(), theta["w"].sum()), draw(2, 3), fisher=gauss_newton
    )
    before = float(objective.fisher({"w": w}, {"w": torch.ones((), dtype=F64)})["w"])
    w.mul_(2)
    after = float(objective.fisher({"w": w}, {"w": torch.ones((), dtype=F64)})["w"])
    assert after == pytest.approx(4 * before)


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_conjugate_gradients_take_as_many_products_as_steps(steps: int) -> None:
    a = draw(9, 9)
    a, products = a @ a.T + torch.eye(9, dtype=F64), []

    def product(v: Tensor) -> Tensor:
        products.append(v)
        return a @ v

    conjugate_gradient(product, draw(9, seed=2), steps=steps)
    assert len(products) == steps


def test_realised_kl_tends_to_that_of_the_damped_quadratic() -> None:
    theta, data = start()
    objective = mean_over_tasks(after, data)
    F, damping = adapted_fisher(theta, data)[0], 0.1
    A = F + damping * torch.eye(len(F), dtype=F64)
    s = torch.linalg.solve(A, -flat(objective.gradient(theta)[2]))
    limit = float(s @ F @ s / (s @ A @ s))
    gaps = []
    for max_kl in (1e-4, 1e-6, 1e-8):
        moved, info = trust_region_step(
            objective, theta, max_kl=max_kl, damping=damping, cg_steps=100
        )
        assert info.accepted
        assert info.backtracks == 0
        gaps.append(abs(evaluated(moved, data)[1] / max_kl - limit))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3
    assert abs(1 - limit) > 0.05  # mutant: a step scaled by s'Fs has the limit 1


@pytest.mark.parametrize("max_kl", [1e-3, 1e-2, 0.5])
def test_accepted_step_improves_within_the_region(max_kl: float) -> None:
    theta, data = start()
    kept = {n: p.clone() for n, p in theta.items()}
    moved, info = trust_region_step(mean_over_tasks(after, data), theta, max_kl=max_kl)
    assert info.accepted
    before, loss, divergence = *evaluated(theta, data)[:1], *evaluated(moved, data)
    assert loss < before
    assert 0 < divergence <= max_kl
    assert math.isclose(info.loss, loss, rel_tol=1e-12)
    assert math.isclose(info.loss_before, before, rel_tol=1e-12)
    assert math.isclose(info.kl, divergence, rel_tol=1e-10)
    assert all(torch.equal(theta[n], kept[n]) for n in kept)
    assert moved.keys() == theta.keys()
