"""Meta-updates of policies: trust region on the real objective, a bandit to its optimum."""

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from adapting import Problem, problem
from oracles import F64, flat
from spies import recorded
from tabular import MDP, SoftmaxPolicy, Tabular, softmax_policy
from torch import Tensor

from metarl import InnerLoop, adapt, mean_over_tasks, stream, torch_stream, trust_region_step
from metarl.errors import InputError
from metarl.params import Params
from metarl.rl.batches import subsample
from metarl.rl.clock import Clock
from metarl.rl.collect import Collected, collect_meta_batch
from metarl.rl.distributions import kl, log_prob
from metarl.rl.maml import meta_step
from metarl.rl.objectives import policy_objectives
from metarl.rl.sampler import Sampler
from metarl.rl.updates import adam_update, next_penalty, promp_update, trpo_update
from metarl.rl.weighting import Weighting
from metarl_experiments.configs.rl import Config
from metarl_experiments.family import State
from metarl_experiments.rl.meta_update import meta_update


def dense_fisher(p: Problem) -> Tensor:
    objective = mean_over_tasks(p.objectives.surrogate, p.data, fisher=p.objectives.fisher)
    sizes = [x.numel() for x in p.theta.values()]

    def product(v: Tensor) -> Tensor:
        parts = torch.split(v, sizes)
        shaped = {n: y.view_as(x) for (n, x), y in zip(p.theta.items(), parts, strict=True)}
        return flat(objective.fisher(p.theta, shaped))

    return torch.stack([product(e) for e in torch.eye(sum(sizes), dtype=F64)])


def evaluated(p: Problem, theta: Params) -> tuple[float, float]:
    """Surrogate loss and KL, task by task and written out."""
    losses, divergences = [], []
    for i in range(len(p.data.query.mask)):
        query, *supports = torch.utils._pytree.tree_map(
            lambda x, i=i: x[i], [p.data.query, *p.data.supports]
        )
        new = p.apply(adapt(p.objectives.inner_loss, theta, supports, p.inner), query.observations)
        ratio = log_prob(new, query.actions).exp() / log_prob(query.old, query.actions).exp()
        steps = query.mask.sum()
        losses.append(-(ratio * query.weights * query.mask).sum() / steps)
        divergences.append((kl(query.old, new) * query.mask).sum() / steps)
    return float(torch.stack(losses).mean()), float(torch.stack(divergences).mean())


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("max_kl", [1e-3, 1e-2, 0.5])
def test_accepted_step_improves_within_the_region(max_kl: float, discrete: bool) -> None:
    p = problem(steps=2, discrete=discrete)
    kept = {n: x.clone() for n, x in p.theta.items()}
    moved, metrics = trpo_update(
        p.objectives,
        p.theta,
        p.data,
        max_kl=max_kl,
        fisher_fraction=0.5,
        generator=torch_stream(0, "fisher"),
        clock=Clock(),
    )
    assert metrics["step_accepted"] == 1
    loss, divergence = evaluated(p, moved)
    assert loss < evaluated(p, p.theta)[0]
    assert 0 < divergence <= max_kl
    assert math.isclose(metrics["loss"], loss, rel_tol=1e-10)
    assert math.isclose(metrics["kl"], divergence, rel_tol=1e-8)
    assert all(torch.equal(p.theta[n], kept[n]) for n in kept)


def test_fisher_products_see_few_steps_and_all_else_sees_all() -> None:
    p = problem(steps=2)
    data = torch.utils._pytree.tree_map(  # of 18 steps, so that ten are fewer
        lambda x: torch.cat([x] * 3, 2) if x.ndim > 1 else x, p.data
    )

    def updated(fraction: float) -> Tensor:
        generator = torch_stream(0, "fisher")
        options: dict[str, Any] = {"max_kl": 1e-3, "fisher_fraction": fraction}
        return flat(trpo_update(p.objectives, p.theta, data, generator=generator, **options)[0])

    few = subsample(data, 0.1, torch_stream(0, "fisher"))
    whole, part = (
        mean_over_tasks(p.objectives.surrogate, d, fisher=p.objectives.fisher) for d in (data, few)
    )
    by_hand = whole._replace(fisher=part.fisher)
    expected, info = trust_region_step(by_hand, p.theta, max_kl=1e-3)
    assert info.accepted
    assert torch.equal(updated(0.1), flat(expected))
    assert not torch.allclose(updated(1.0), flat(expected), rtol=1e-3)  # mutant: all steps


@pytest.mark.parametrize("epochs", [1, 3])
def test_promp_takes_its_epochs_and_says_where_it_ended(epochs: int) -> None:
    p, penalty = problem(steps=2), 0.3
    theta = {n: x.clone().requires_grad_() for n, x in p.theta.items()}
    optimizer = torch.optim.SGD(theta.values(), lr=0.1)
    moved, metrics = promp_update(
        p.objectives, theta, p.data, optimizer, epochs=epochs, penalty=penalty
    )
    objective = mean_over_tasks(
        p.objectives.clipped, (p.data, torch.full((len(p.data.query.mask),), penalty, dtype=F64))
    )
    here = p.theta
    for _ in range(epochs):
        loss, _, gradient = objective.gradient(here)
        here = {n: x - 0.1 * gradient[n] for n, x in here.items()}
    assert torch.allclose(flat(moved), flat(here), rtol=1e-12)
    reported = [metrics[name] for name in ("loss", "kl", "inner_kl")]
    expected = [float(loss), evaluated(p, here)[1], float(objective.value(here)[1])]
    assert reported == pytest.approx(expected, rel=1e-10)
    assert metrics["kl"] != pytest.approx(metrics["inner_kl"], rel=0.1)  # the mutant


def test_configured_conjugate_gradient_steps_reach_the_step() -> None:
    p = problem(steps=1)

    def direction(cg_steps: int) -> Tensor:
        config = Config(cg_steps=cg_steps, max_kl=1e-3, fisher_fraction=1.0)
        state = State(p.theta, None, {"seed": 0})
        moved, _ = meta_update(config, p.objectives, state, 0, p.theta, p.data, clock=Clock())
        step = flat(moved) - flat(p.theta)
        return step / step.norm()

    gradient = flat(mean_over_tasks(p.objectives.surrogate, p.data).gradient(p.theta)[2])
    assert torch.allclose(direction(1), -gradient / gradient.norm(), atol=1e-10)
    A = dense_fisher(p) + 1e-5 * torch.eye(len(gradient), dtype=F64)
    natural = torch.linalg.solve(A, -gradient)
    nearness = [float(direction(n) @ natural / natural.norm()) for n in (1, 3, 100)]
    assert nearness == sorted(nearness)
    assert nearness[-1] > 1 - 1e-6 > nearness[1] > nearness[0]  # mutant: always as many


# One-step bandits whose tasks differ in the arm that pays: arm i with probability SHARES[i].

SHARES = np.array([0.6, 0.3, 0.1])
ALPHA = 3.0
START = torch.tensor([[-2.0, 0.0, 2.0]], dtype=F64)


def adapted_value(logits: Tensor) -> Tensor:
    """Expected reward after one exact policy-gradient step, ``(..., 3) -> (...)``."""
    pi = torch.softmax(logits, -1)
    total = torch.zeros(logits.shape[:-1], dtype=logits.dtype)
    for arm, share in enumerate(SHARES):
        gradient = pi[..., arm, None] * (torch.eye(3, dtype=logits.dtype)[arm] - pi)
        total += share * torch.softmax(logits + ALPHA * gradient, -1)[..., arm]
    return total


@functools.cache
def optimum() -> float:
    grid = torch.linspace(-6, 6, 241, dtype=F64)
    a, b = torch.meshgrid(grid, grid, indexing="ij")
    return float(adapted_value(torch.stack((a, b, torch.zeros_like(a)), -1)).max())


def bandits(n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    return [{"reward": np.eye(3)[None, arm]} for arm in rng.choice(3, n, p=SHARES)]


def trained(
    update: str = "trpo",
    *,
    iterations: int,
    seed: int = 0,
    tasks: int = 20,
    episodes: int = 40,
    correction: Any = "off",
) -> float:
    """Exact value after adaptation of what training reached."""
    policy = SoftmaxPolicy(START)
    theta: Params = dict(policy.named_parameters())
    mdp = MDP(torch.ones(1), torch.ones(1, 3, 1), torch.zeros(1, 3))
    env = Tabular(mdp, num_envs=tasks * episodes, horizon=1, tasks=bandits)
    sampler = Sampler(env, episodes=episodes, horizon=1)
    inner = InnerLoop(ALPHA)
    objectives = policy_objectives(
        softmax_policy,
        inner,
        inner_surrogate="loglik" if correction == "emaml" else "dice",
        sampling_correction=correction,
    )
    optimizer = torch.optim.Adam(theta.values(), lr=0.05)
    penalty = 1e-3

    def step(theta: Params, data: Any, *, clock: Clock) -> Any:
        nonlocal penalty
        if update == "adam":
            return adam_update(objectives, theta, data, optimizer, clock=clock)
        if update == "promp":
            theta, metrics = promp_update(
                objectives, theta, data, optimizer, penalty=penalty, clock=clock
            )
            penalty = next_penalty(penalty, metrics["inner_kl"], target_kl=0.1)
            return theta, metrics
        generator = torch_stream(seed, "fisher")
        return trpo_update(objectives, theta, data, max_kl=0.01, generator=generator, clock=clock)

    def collect(i: int, theta: Params, *, clock: Clock) -> Collected:
        return collect_meta_batch(
            theta,
            policy=policy,
            objectives=objectives,
            sampler=sampler,
            tasks=sampler.sample_tasks(tasks, stream(seed, "tasks", i)),
            inner_steps=1,
            weighting=Weighting(discount=1.0, baseline="zero", standardized=False),
            seed=1000 * seed + i,
            clock=clock,
        )

    for i in range(iterations):
        theta, metrics = meta_step(
            theta, functools.partial(collect, i), step, objectives=objectives
        )
        assert all(math.isfinite(x) for x in metrics.values())
    return float(adapted_value(theta["logits"].detach())[0])


@pytest.mark.parametrize(
    ("inner_kl", "penalty", "following"),
    [
        (0.0066, 0.1, 0.05),
        (0.0067, 0.1, 0.1),
        (0.0149, 0.1, 0.1),
        (0.0151, 0.1, 0.2),
        (0.0, 1e-6, 1e-6),
        (1.0, 1e6, 1e6),
    ],
)
def test_penalty_follows_the_inner_kl(inner_kl: float, penalty: float, following: float) -> None:
    assert next_penalty(penalty, inner_kl, target_kl=0.01) == following


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_bandit_reaches_its_meta_optimum(seed: int) -> None:
    assert float(adapted_value(START)[0]) < 0.7 * optimum()
    assert trained(iterations=200, seed=seed, tasks=100, episodes=20) > 0.98 * optimum()


@pytest.mark.parametrize(
    ("update", "options", "least"),
    [
        ("trpo", {}, 0.9),
        ("trpo", {"tasks": 1}, 0.1),
        ("trpo", {"tasks": 2}, 0.3),
        ("trpo", {"correction": "emaml"}, 0.7),
        ("adam", {}, 0.4),
        ("adam", {"correction": "emaml"}, 0.1),
        ("promp", {}, 0.8),
    ],
)
def test_every_update_closes_part_of_the_gap(
    update: str, options: dict[str, Any], least: float
) -> None:
    start = float(adapted_value(START)[0])
    end = trained(update, iterations=40, **options)
    assert (end - start) / (optimum() - start) > least


def test_promp_refuses_a_correction_that_its_loss_has_not() -> None:
    with pytest.raises(InputError, match="is not in ProMP's clipped surrogate: use trpo_update"):
        trained("promp", iterations=1, correction="emaml")


@pytest.mark.parametrize("update", ["adam", "promp"])
def test_frozen_entries_stay(update: str) -> None:
    p = problem(steps=1)
    theta = {n: x.detach().clone() for n, x in p.theta.items()}
    first, *others = theta
    for name in others:
        theta[name].requires_grad_()
    before = {n: x.detach().clone() for n, x in theta.items()}
    optimizer = torch.optim.Adam(theta.values(), lr=0.01)
    if update == "adam":
        adam_update(p.objectives, theta, p.data, optimizer)
    else:
        promp_update(p.objectives, theta, p.data, optimizer, penalty=0.1)
    assert torch.equal(theta[first], before[first])
    assert not any(torch.equal(theta[n], before[n]) for n in others)


@pytest.mark.parametrize("damping", [1e-5, 1.0])
def test_damping_arrives(damping: float) -> None:
    p = problem(steps=1)
    objective = mean_over_tasks(p.objectives.surrogate, p.data, fisher=p.objectives.fisher)
    options: dict[str, Any] = {"max_kl": 1e-3, "damping": damping}
    expected, info = trust_region_step(objective, p.theta, **options)
    assert info.accepted
    generator = torch_stream(0, "fisher")
    moved, _ = trpo_update(
        p.objectives, p.theta, p.data, generator=generator, fisher_fraction=1.0, **options
    )
    assert torch.equal(flat(moved), flat(expected))


def test_the_resolution_is_the_surrogates_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """It follows the size of the weights, those of other ranks too."""
    p = problem(steps=1)
    query = p.data.query
    size, steps = float((query.weights * query.mask).abs().sum()), float(query.mask.sum())
    calls = recorded(monkeypatch, "metarl.rl.updates.trust_region_step", trust_region_step)

    def with_another_rank(x: Tensor) -> Tensor:
        return x + x.new_tensor([30.0, 10.0]) if len(x) == 2 else x

    for factor, reduce in ((1.0, None), (3.0, None), (1.0, with_another_rank)):
        data = p.data._replace(query=query._replace(weights=factor * query.weights))
        generator = torch_stream(0, "fisher")
        trpo_update(p.objectives, p.theta, data, max_kl=1e-3, generator=generator, reduce=reduce)
    means = [size / steps, 3 * size / steps, (size + 30) / (steps + 10)]
    # In units of the last place: beside the numbers themselves approx's least tolerance is large.
    found = [call.options["resolution"] / torch.finfo(F64).eps for call in calls]
    assert found == pytest.approx([8 * mean for mean in means])
