"""Inner-loop options through a whole meta-iteration, against their plain counterparts."""

import functools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from meta_steps import Setting, trpo, updated, walk
from oracles import draw, flat, rel
from spies import recorded
from walkers import diverging

import metarl
from metarl import InnerLoop, NonFiniteError, mean_over_tasks
from metarl.distributed import Ranks
from metarl.params import Params
from metarl.rl import clock
from metarl.rl.batches import MetaBatch
from metarl.rl.clock import Clock
from metarl.rl.collect import collect_meta_batch
from metarl.rl.distributions import log_prob
from metarl.rl.old_policy import old_policy


def outer(setting: Setting, theta: Params | None = None) -> tuple[Params, MetaBatch]:
    """Outer gradient of a meta-iteration, and the data it saw; theta stays."""
    seen: list[Any] = []

    def update(theta: Params, data: MetaBatch, *, clock: Clock) -> Any:
        objective = mean_over_tasks(setting.options["objectives"].surrogate, data)
        seen.append((objective.gradient(theta)[2], data))
        return theta, {}

    setting.step(update, theta=theta)
    return seen[0]  # type: ignore[no-any-return]


def written_out(setting: Setting, data: MetaBatch, inner: InnerLoop | None = None) -> torch.Tensor:
    """Task by task: steps on -mean(log pi * weight), then -mean(ratio * weight), by autograd."""
    policy, inner = setting.policy, inner or setting.options["objectives"].inner
    theta = {n: p.detach().clone().requires_grad_() for n, p in setting.theta.items()}

    def logs(params: Params, b: Any, i: int) -> torch.Tensor:
        out = torch.func.functional_call(policy, params, (b.observations[i],))
        return log_prob(out, b.actions[i])

    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(data.query.mask)):
        params: Params = theta
        for b in data.supports:
            loss = -(logs(params, b, i) * b.weights[i] * b.mask[i]).sum() / b.mask[i].sum()
            slopes = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            if inner.first_order:
                slopes = tuple(s.detach() for s in slopes)
            params = {
                n: p - inner.lr * s if inner.adapted is None or inner.adapted(n) else p
                for (n, p), s in zip(params.items(), slopes, strict=True)
            }
        q = data.query
        new = logs(params, q, i)
        ratio = torch.exp(new - new.detach())
        total = total - (ratio * q.weights[i] * q.mask[i]).sum() / q.mask[i].sum()
    return flat(torch.autograd.grad(total / len(data.query.mask), list(theta.values())))


def head(name: str) -> bool:
    return "layers.1" in name or name == "log_std"


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("inner_steps", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"first_order": True}, {"adapted": head}])
def test_outer_gradient_written_out(
    options: dict[str, Any], inner_steps: int, discrete: bool
) -> None:
    setting = walk(inner=InnerLoop(0.3, **options), inner_steps=inner_steps, discrete=discrete)
    gradient, data = outer(setting)
    assert len(data.supports) == inner_steps
    truth = written_out(setting, data)
    assert rel(flat(gradient), truth) < 1e-10
    if options.get("first_order"):
        return
    mutant = written_out(setting, data, InnerLoop(0.3, first_order=True))
    assert rel(mutant, truth) > 0.005


@pytest.mark.parametrize("per", ["tensor", "element"])
@pytest.mark.parametrize("steps", [None, 2])
def test_equal_learned_step_sizes_are_maml(per: Any, steps: int | None) -> None:
    """Meta-SGD and per-step rates, all equal: the same rollouts and the same gradient."""
    setting = walk(inner=InnerLoop(0.3), inner_steps=2)
    plain, data = outer(setting)
    rates = metarl.learned_rates(setting.theta, 0.3, per=per, steps=steps)
    learned, same = outer(setting, setting.theta | rates)
    assert torch.equal(same.query.actions, data.query.actions)
    for name in plain:
        assert rel(learned[name], plain[name]) < 1e-12
    assert all(bool(learned[name].any()) for name in rates)


def test_anil_with_the_full_mask_is_maml() -> None:
    masks = (None, lambda name: True)
    gradients = [outer(walk(inner=InnerLoop(0.3, adapted=mask)))[0] for mask in masks]
    assert torch.equal(flat(gradients[0]), flat(gradients[1]))


def test_anil_adapts_the_head_alone() -> None:
    setting = walk(inner=InnerLoop(0.3, adapted=head))
    path = collect_meta_batch(setting.theta, seed=0, clock=Clock(), **setting.options).path
    for name, p in path[1].items():
        assert torch.equal(p, path[0][name]) != head(name), name
    assert all(bool(g.any()) for g in outer(setting)[0].values())


@pytest.mark.parametrize("mapping", ["vmap", "chunk:1", "chunk:2", "threads", "threads+compile"])
def test_mappings_take_the_same_step(mapping: str) -> None:
    """Conjugate gradient multiplies rounding by the Fisher matrix's condition, about 1e5.

    Without a compiler the last is like the one before it.
    """
    setting = walk(inner_steps=2)
    theta, objectives = setting.theta, setting.options["objectives"]
    v, data = outer(setting)
    found = []
    for name in ("vmap", mapping):
        own = old_policy(objectives, theta, data, mapping=name)
        objective = mean_over_tasks(
            objectives.surrogate, own, fisher=objectives.fisher, mapping=name
        )
        moved, metrics = trpo(setting, mapping=name)(theta, own, clock=Clock())
        assert metrics["step_accepted"] == 1
        step = flat(moved) - flat(theta)
        found.append((flat(objective.gradient(theta)[2]), flat(objective.fisher(theta, v)), step))
    for a, b, tolerance in zip(*found, (1e-12, 1e-12, 1e-5), strict=True):
        assert rel(b, a) < tolerance


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("inner_steps", [0, 1, 3])
def test_small_meta_batches(tasks: int, inner_steps: int) -> None:
    drawn = [{"slope": 0.5}, {"slope": -0.5}][:tasks]
    setting = walk(drawn, inner_steps=inner_steps)
    theta, metrics = setting.step(trpo(setting))
    assert metrics["step_accepted"] == 1
    assert all(x == x for x in metrics.values())
    assert ("gain" in metrics) == (inner_steps > 0)
    assert ("gain_ci95" in metrics) == (inner_steps > 0 and tasks > 1)
    assert metrics["env_steps"] <= tasks * 4 * 9 * (inner_steps + 1)
    assert not torch.equal(flat(theta), flat(setting.theta))


def test_mixed_batches_are_one_task() -> None:
    """Consecutive tasks share one baseline and one standardisation, under one policy."""
    tasks = [{"slope": s} for s in (1.0, -1.0, 0.5, -0.5)]
    setting = walk(tasks, inner_steps=0, mixed=2)
    gradient, data = outer(setting)
    assert data.query.mask.shape[:2] == (2, 8)
    assert data.supports == ()
    assert rel(flat(gradient), written_out(setting, data)) < 1e-10
    apart = outer(walk(tasks, inner_steps=0))[1].query.observations
    assert torch.equal(data.query.observations, torch.stack([apart[:2], apart[2:]]).flatten(1, 2))
    for weights, mask in zip(data.query.weights, data.query.mask, strict=True):
        valid = weights[mask > 0]
        assert abs(float(valid.mean())) < 1e-9
        assert float(valid.std(correction=0)) == pytest.approx(1, abs=1e-6)
    _, metrics = setting.step(trpo(setting))
    assert metrics["step_accepted"] == 1
    assert "return_before" not in metrics


def inner_gradient_norm(setting: Setting, support: Any, but: Sequence[str] = ()) -> float:
    """Of the plain inner loss by autograd, mean over tasks; without some parameters."""
    norms = []
    for i in range(len(support.mask)):
        own = {n: p.detach().clone().requires_grad_() for n, p in setting.theta.items()}
        b = torch.utils._pytree.tree_map(lambda x, i=i: x[i], support)
        loss = setting.options["objectives"].inner_loss(own, b)
        slopes = dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))
        norms.append(flat([g for n, g in slopes.items() if n not in but]).norm())
    return float(torch.stack(norms).mean())


@pytest.mark.parametrize("name", ["trpo", "adam"])
@pytest.mark.parametrize(
    "still", [{}, {"mean.layers.0.weight": 0.0, "mean.layers.1.weight": 1e-30}]
)
def test_inner_gradient_norm_is_by_the_step_sizes_taken(name: str, still: dict[str, float]) -> None:
    """Unequal learned ones, which Adam moves in place; what they do not move is left out."""
    setting = walk(inner=InnerLoop(0.3))
    rates = {
        f"inner_lr.{n}": torch.full_like(p, still[n]) if n in still else 0.1 + draw(*p.shape).abs()
        for n, p in setting.theta.items()
    }
    learned = setting._replace(
        theta={**setting.theta, **{n: r.requires_grad_() for n, r in rates.items()}}
    )
    collected = collect_meta_batch(setting.theta, seed=0, clock=Clock(), **setting.options)
    expected = inner_gradient_norm(setting, collected.data.supports[0], list(still))
    _, metrics = learned.step(updated(learned, name)[0])
    assert metrics["inner_grad_norm"] == pytest.approx(expected, rel=1e-9)


def test_invalid_episodes_of_supports_and_query_are_counted() -> None:
    setting = walk(inner_steps=2)
    diverging(setting.options["sampler"].envs[0], [5])
    _, metrics = setting.step(trpo(setting))
    assert metrics["invalid_episodes"] == 3


def test_parts_add_up_to_the_time_that_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now))
    watch = Clock()
    for part, seconds in (("sample", 2.0), ("adapt", 3.0), ("sample", 4.0), ("", 5.0)):
        with watch(part) if part else nullcontext():
            now += seconds
    expected = {"sample": 6.0, "adapt": 3.0, "other": 5.0}
    assert watch.metrics() == {f"seconds.{part}": s for part, s in expected.items()}


def test_metrics_say_what_happened() -> None:
    setting = walk(inner=InnerLoop(0.3), inner_steps=2)
    with torch.no_grad():
        setting.theta["log_std"].copy_(torch.tensor([0.0, -1.0]))
    _, metrics = setting.step(trpo(setting))
    collected = collect_meta_batch(setting.theta, seed=0, clock=Clock(), **setting.options)
    returns = collected.returns().double()
    assert returns.shape == (3, 3)
    gain = returns[-1] - returns[0]
    assert metrics["return_before"] == pytest.approx(float(returns[0].mean()))
    assert metrics["return_after"] == pytest.approx(float(returns[-1].mean()))
    assert metrics["gain_ci95"] == pytest.approx(1.96 * float(gain.std()) / 3**0.5)
    assert metrics["worse_fraction"] == float((gain < 0).double().mean())
    assert metrics["env_steps"] == sum(float(r.mask.sum()) for r in collected.rollouts)
    assert metrics["sigma"] == pytest.approx((1 + math.exp(-1)) / 2)
    expected = inner_gradient_norm(setting, collected.data.supports[0])
    assert metrics["inner_grad_norm"] == pytest.approx(expected, rel=1e-9)
    parts = {"sample", "adapt", "gradient", "fisher", "line_search", "other"}
    assert {f"seconds.{part}" for part in parts} <= metrics.keys()


def test_tasks_adapt_as_the_objectives_say_unless_told() -> None:
    setting = walk(inner=InnerLoop(0.1))
    collect = functools.partial(collect_meta_batch, setting.theta, seed=0, **setting.options)
    path, same, other = (
        collect(inner=inner).path for inner in (None, InnerLoop(0.1), InnerLoop(0.2))
    )
    assert torch.equal(flat(path[1]), flat(same[1]))
    assert rel(flat(path[1]) - flat(path[0]), 0.5 * (flat(other[1]) - flat(other[0]))) < 1e-9


def test_only_the_sampling_correction_is_credited() -> None:
    plain, corrected = (
        collect_meta_batch(s.theta, seed=0, **s.options).data.score_weights
        for s in (walk(), walk(sampling_correction="emaml"))
    )
    assert plain is None
    assert corrected is not None
    assert corrected.all()


def test_ranks_play_their_own_tasks_of_a_mixed_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = walk([{"slope": s / 8} for s in range(8)], inner_steps=0, mixed=2, episodes=1)
    sampler = setting.options["sampler"]
    given = recorded(monkeypatch, "metarl.rl.sampler.Sampler.set_tasks")
    for rank, own in ((0, slice(0, 4)), (1, slice(4, 8))):
        collect_meta_batch(setting.theta, seed=0, ranks=Ranks(rank, 2), **setting.options)
        assert given[-1].args == (sampler, setting.options["tasks"][own])
        assert given[-1].options == {"block": (own.start, 8)}


def test_a_diverged_episode_of_a_mixed_batch_is_dropped() -> None:
    """Each of its tasks has but one."""
    setting = walk([{"slope": s / 8} for s in range(8)], inner_steps=0, mixed=4, episodes=1)
    diverging(setting.options["sampler"].envs[0], [3])
    found = collect_meta_batch(setting.theta, seed=0, **setting.options)
    assert found.invalid_episodes == 1
    assert [bool(row.any()) for row in found.data.query.mask[0]] == [True, True, True, False]
    diverging(setting.options["sampler"].envs[0], [4, 5, 6, 7])
    setting.options["sampler"].max_invalid = 1.0
    with pytest.raises(NonFiniteError, match="every episode of task 4") as told:
        collect_meta_batch(setting.theta, seed=0, **setting.options)
    assert set(told.value.batch) == {"observations", "actions", "rewards", "mask"}
