"""The sinusoid experiment: streams, adaptation curves, determinism, scores of ten seeds."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import metarl
from metarl.errors import NonFiniteError
from metarl_experiments.bench.sinusoid import gradient, loop_gradient, sinusoid_bench
from metarl_experiments.configs.bounds import check_ranges
from metarl_experiments.configs.sinusoid import Config, EvaluateOptions
from metarl_experiments.machine import Machine
from metarl_experiments.sinusoid.learner import VALIDATION_SEED, SinusoidLearner
from metarl_experiments.sinusoid.tasks import BLOCK, Episodes, Source

PLAIN = Machine("cpu", "float32", 1, "vmap", "off")
DOUBLE = replace(PLAIN, dtype="float64")


def trained(
    config: Config, iterations: int, *, seed: int = 0, machine: Machine = PLAIN
) -> tuple[SinusoidLearner, Any, list[float]]:
    learner = SinusoidLearner(config, machine)
    state = learner.init(seed)
    losses = [float(learner.step(state, i)["loss_after"]) for i in range(iterations)]
    return learner, state, losses


def detached(params: metarl.Params) -> metarl.Params:
    return {name: p.detach().clone() for name, p in params.items()}


def test_same_seed_same_bits() -> None:
    (_, one, a), (_, two, b) = (trained(Config(), 15) for _ in range(2))
    assert a == b
    assert all(torch.equal(one.params[n], two.params[n]) for n in one.params)
    _, _, other = trained(Config(), 15, seed=1)
    assert a != other


def test_iterations_are_a_function_of_their_number() -> None:
    """A meta-batch does not depend on which was asked for before: what resuming rests on."""
    forward, backward = (SinusoidLearner(Config(), PLAIN) for _ in range(2))
    numbers = [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 7]

    def batch(learner: SinusoidLearner, i: int) -> torch.Tensor:
        return learner.source.block(0, i // BLOCK)[i % BLOCK].support.x

    ahead = [batch(forward, i) for i in numbers]
    back = [batch(backward, i) for i in reversed(numbers)]
    assert all(torch.equal(a, b) for a, b in zip(ahead, reversed(back), strict=True))


def repeated() -> int:
    """Amplitudes, phases, x and y that two tasks of training, validation and test share."""
    source = Source(Config(observe_task=True), DOUBLE)
    episodes = [*source.block(0, 0), *source.block(0, 1)]
    episodes += [source.held_out(0, purpose, 600, 5)[1] for purpose in ("validation", "test")]
    count = 0
    for part in ("support", "query"):
        points = [getattr(e, part) for e in episodes]
        for column in (
            [p.x[..., 0] for p in points],
            [p.x[:, 0, 1] for p in points],  # amplitudes, then phases, as the oracle is told them
            [p.x[:, 0, 2] for p in points],
            [p.y for p in points],
        ):
            pooled = torch.cat([values.flatten() for values in column])
            count += len(pooled) - len(pooled.unique())
    return count


def test_train_validation_and_test_tasks_are_disjoint(monkeypatch: pytest.MonkeyPatch) -> None:
    assert repeated() == 0
    # Mutant: one stream serves all purposes.
    stream = metarl.stream

    def same(seed: int, purpose: str, *index: int) -> np.random.Generator:
        return stream(seed, "train-tasks", *(index if purpose == "train-tasks" else (0,)))

    monkeypatch.setattr(metarl, "stream", same)
    assert repeated() > 600


def shared_points(episodes: Episodes) -> int:
    """Points of the tasks' queries that are among their supports."""
    pairs = zip(episodes.support.x, episodes.query.x, strict=True)
    return sum(int(torch.isin(query, support).sum()) for support, query in pairs)


def test_queries_are_none_of_the_points_adapted_on() -> None:
    config = Config(shots=4, query=7)
    source = Source(config, DOUBLE)
    parts = [source.block(0, 0)[0], source.held_out(0, "test", 30, 5)[1]]
    assert [(e.support.x.shape[1], e.query.x.shape[1]) for e in parts] == [(4, 7), (5, 5)]
    assert [shared_points(e) for e in parts] == [0, 0]
    assert shared_points(Episodes(parts[0].support, parts[0].support)) > 0  # mutant


def test_each_seed_trains_on_tasks_of_its_own_and_validates_on_the_same() -> None:
    learner = SinusoidLearner(Config(validation_tasks=7), DOUBLE)
    blocks = recorded_blocks(learner)
    states = [learner.init(seed) for seed in (0, 1)]
    for state in states:
        learner.step(state, 0)
    assert [seed for seed, _ in blocks] == [0, 1]
    assert not torch.equal(*(learner.source.block(seed, 0)[0].support.x for seed in (0, 1)))
    states[1].params = states[0].params
    assert learner.validate(states[0]) == learner.validate(states[1])


def recorded_blocks(learner: SinusoidLearner) -> list[tuple[int, int]]:
    """Seeds and numbers of the blocks that the learner asks for."""
    asked: list[tuple[int, int]] = []
    block = learner.source.block

    def spy(seed: int, number: int) -> list[Episodes]:
        asked.append((seed, number))
        return block(seed, number)

    learner.source.block = spy  # type: ignore[assignment]
    return asked


def test_the_loss_before_is_that_of_theta_itself() -> None:
    learner = SinusoidLearner(Config(log_every=1), DOUBLE)
    state = learner.init(0)
    query = learner.source.block(0, 0)[0].query
    model = detached(metarl.split_rates(state.params)[0])
    truth = float((learner.apply(model, query.x) - query.y).square().mean())
    assert learner.step(state, 0)["loss_before"] == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("learned_lr", ["tensor", "element"])
def test_learned_step_sizes_move(learned_lr: Any) -> None:
    learner = SinusoidLearner(Config(learned_lr=learned_lr), DOUBLE)
    state = learner.init(0)
    before = detached(state.params)
    learner.step(state, 0)
    rates = [name for name in before if name.startswith("inner_lr.")]
    assert rates
    assert all(bool((state.params[n] != before[n]).any()) for n in rates)


def test_each_number_of_shots_has_a_curve_of_its_own() -> None:
    learner, state, _ = trained(Config(), 20, machine=DOUBLE)
    params = detached(state.params)
    found = learner.evaluate(params, EvaluateOptions(tasks=4, steps=2))
    for shots in (10, 20):
        _, episodes = learner.source.held_out(0, "test", 4, shots)
        truth = reference_curve(learner, params, episodes, 2).mean(1)
        told = found.variants[f"{shots}-shot"]["mean"]
        np.testing.assert_allclose(told, truth, rtol=1e-9)
        assert not np.allclose(told, found.per_task.mean(1), rtol=1e-3)


def reference_curve(
    learner: SinusoidLearner, params: metarl.Params, episodes: Episodes, steps: int
) -> np.ndarray:
    """Task by task and step by step, with rates of the run's own then scaled."""
    config = learner.config
    model, rates = metarl.split_rates(params)
    curve = np.empty((steps + 1, len(episodes.query.x)))
    for i, (x, y, xq, yq) in enumerate(zip(*episodes.support, *episodes.query, strict=True)):
        theta = {name: p.clone().requires_grad_() for name, p in model.items()}
        for k in range(steps + 1):
            curve[k, i] = float((learner.apply(theta, xq) - yq).square().mean().detach())
            loss = (learner.apply(theta, x) - y).square().mean()
            slopes = torch.autograd.grad(loss, list(theta.values()))
            factor = 1.0 if k < max(config.inner_steps, 1) else config.later_lr_factors[0]
            theta = {
                n: (p - factor * rates.get(n, config.inner_lr) * g).detach().requires_grad_()
                for (n, p), g in zip(theta.items(), slopes, strict=True)
            }
    return curve


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(learned_lr="tensor", later_lr_factors=(0.3,)),
        Config(learned_lr="element", inner_steps=2, later_lr_factors=(0.5,)),
        Config(inner_steps=0),
        Config(observe_task=True, inner_steps=0),
        Config(first_order=True),
    ],
)
def test_curve_equals_an_independent_reference(config: Config) -> None:
    learner, state, _ = trained(config, 20, machine=DOUBLE)
    params = detached(state.params)
    options = EvaluateOptions(tasks=4, steps=4)
    curve = learner.evaluate(params, options).per_task
    _, episodes = learner.source.held_out(options.task_seed, "test", options.tasks, options.shots)
    np.testing.assert_allclose(curve, reference_curve(learner, params, episodes, 4), rtol=1e-9)
    more = learner.evaluate(params, replace(options, steps=7)).per_task
    np.testing.assert_array_equal(more[:5], curve)


def test_reference_sees_a_wrong_later_rate() -> None:
    """Mutant: the trained rate is kept beyond the trained steps."""
    config = Config(learned_lr="tensor", later_lr_factors=(0.3,))
    learner, state, _ = trained(config, 20, machine=DOUBLE)
    params = detached(state.params)
    options = EvaluateOptions(tasks=4, steps=4)
    mutant = SinusoidLearner(replace(config, later_lr_factors=(1.0,)), DOUBLE)
    curve = mutant.evaluate(params, options).per_task
    _, episodes = learner.source.held_out(options.task_seed, "test", options.tasks, options.shots)
    reference = reference_curve(learner, params, episodes, 4)
    np.testing.assert_allclose(curve[:2], reference[:2], rtol=1e-9)
    assert not np.allclose(curve, reference, rtol=1e-6)


def test_evaluation_and_validation_change_nothing() -> None:
    learner, state, _ = trained(Config(learned_lr="tensor"), 5)
    before = detached(state.params)
    moments = {k: v["exp_avg"].clone() for k, v in state.optimizer.state.items()}
    random = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    learner.evaluate(state.params, EvaluateOptions(tasks=5))
    learner.validate(state)
    assert all(torch.equal(before[n], p) for n, p in state.params.items())
    assert all(torch.equal(v["exp_avg"], moments[k]) for k, v in state.optimizer.state.items())
    assert torch.equal(random[0], torch.get_rng_state())
    assert (random[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_validation_is_the_curve_after_the_trained_steps() -> None:
    config = Config(inner_steps=2, validation_tasks=8, validation_shots=7)
    learner, state, _ = trained(config, 3, machine=DOUBLE)
    params, found = detached(state.params), learner.validate(state)
    assert learner.validate(state) == found

    def expected(purpose: str) -> dict[str, Any]:
        _, episodes = learner.source.held_out(VALIDATION_SEED, purpose, 8, 7)
        losses = reference_curve(learner, params, episodes, 2).mean(1)
        return {"loss_before": losses[0], "loss_after": losses[2]}

    assert found == pytest.approx(expected("validation"), rel=1e-9)
    # Mutant: the best checkpoint is chosen on the tasks that it is tested on.
    assert found != pytest.approx(expected("test"), rel=1e-3)


def test_curves_of_many_tasks_are_made_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, state, _ = trained(Config(learned_lr="tensor"), 5, machine=DOUBLE)
    options = EvaluateOptions(tasks=7, steps=2)
    whole = learner.evaluate(state.params, options).per_task
    sizes: list[int] = []
    path = learner.path

    def counted(params: metarl.Params, support: Any, steps: int) -> list[metarl.Params]:
        sizes.append(len(support.x))
        return path(params, support, steps)

    monkeypatch.setattr(learner, "path", counted)
    theta = 8 * sum(p.numel() for p in state.params.values())
    monkeypatch.setattr("metarl_experiments.memory.HELD", 2 * (3 * theta + 1_000))
    parts = learner.evaluate(state.params, options).per_task
    assert sizes[:4] == [2, 2, 2, 1]
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


@pytest.mark.parametrize(
    ("sizes", "naming"),
    [
        (Config(validation_tasks=10_000, validation_shots=101), "--validation-tasks 10000 x"),
        (EvaluateOptions(tasks=100_000, shots=11), "--tasks 100000 x --shots 11"),
        (EvaluateOptions(tasks=100_000, steps=11), "--tasks 100000 x --steps 11"),
    ],
)
def test_sizes_that_are_too_large_together(sizes: Config | EvaluateOptions, naming: str) -> None:
    with pytest.raises(ValueError, match=f"^{naming}.*together more than"):
        check_ranges(sizes)
    check_ranges(EvaluateOptions(tasks=100_000, shots=10, steps=10))


def test_non_finite_is_caught_before_the_update() -> None:
    learner = SinusoidLearner(Config(inner_lr=100.0), PLAIN)
    state = learner.init(0)
    with torch.no_grad():
        for p in state.params.values():
            p.mul_(1e6).add_(1e6)
    before = detached(state.params)
    with pytest.raises(NonFiniteError) as caught:
        learner.step(state, 0)
    assert caught.value.place in ("outer loss", "outer gradient")
    assert caught.value.task is not None
    assert {"support.x", "query.y"} <= set(caught.value.batch)
    assert all(torch.equal(before[n], p) for n, p in state.params.items())


def test_cosine_ends_at_zero() -> None:
    config = Config(lr_decay="cosine", iterations=10)
    learner = SinusoidLearner(config, PLAIN)
    state = learner.init(0)
    rates = []
    for i in range(10):
        learner.step(state, i)
        assert state.optimizer is not None
        rates.append(state.optimizer.param_groups[0]["lr"])
    assert rates[0] == config.lr
    assert rates[5] == pytest.approx(config.lr / 2)
    assert 0 < rates[9] < 0.03 * config.lr
    assert rates == sorted(rates, reverse=True)


def test_bench_compares_the_same_gradient() -> None:
    learner, state, _ = trained(Config(), 10, machine=DOUBLE)
    episodes = learner.source.block(0, 0)[0]
    ours, loop = (f(learner, state.params, episodes) for f in (gradient, loop_gradient))
    for name in ours:
        torch.testing.assert_close(ours[name], loop[name], rtol=1e-9, atol=1e-12)


def test_bench_gives_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarl_experiments.bench.sinusoid.CALLS", 1)
    monkeypatch.setattr("metarl_experiments.machine.compiler_present", lambda: False)
    ratios = sinusoid_bench(1)
    assert set(ratios) == {"milliseconds", "loop/gradient", "first-order/exact"}
    assert all(value > 0 for value in ratios.values())


# Validation loss after 300 iterations of meta-batch 10, seeds 0 to 9.
RECORDED = [1.576, 1.441, 1.288, 1.205, 1.156, 1.020, 0.800, 1.085, 1.437, 1.023]


def in_band(score: float) -> bool:
    return bool(abs(score - np.mean(RECORDED)) < 4 * np.std(RECORDED, ddof=1))


def score(config: Config) -> float:
    learner, state, _ = trained(config, 300, seed=10)
    return float(learner.validate(state)["loss_after"])


ANCHOR = Config(learned_lr="tensor", meta_batch=10, lr=1e-2, init_std=0.3)


def test_score_is_in_the_band_of_recorded_seeds() -> None:
    assert in_band(score(ANCHOR))


def test_band_sees_a_model_that_does_not_adapt() -> None:
    """Mutant: one model of all tasks."""
    assert not in_band(score(replace(ANCHOR, learned_lr="no", inner_steps=0)))
