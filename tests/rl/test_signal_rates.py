"""Step sizes that leave out the noise of inner steps: the formula, and runs that measure them."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from test_rl_evaluation import DOUBLE, SMALL
from torch import Tensor

import metarl
from metarl.errors import InputError, RunWarning
from metarl_experiments.configs.rl import Config
from metarl_experiments.rl.learner import PolicyLearner
from metarl_experiments.rl.step_sizes import BATCHES

TASKS, ELEMENTS, LR = 40_000, 12, 0.3


def steps() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Signals of many tasks, two noisy steps of each, and the variances of signal and noise."""
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(TASKS, ELEMENTS, generator=generator, dtype=torch.float64)

    signal_variance = torch.linspace(0, 2, ELEMENTS, dtype=torch.float64) ** 2
    noise_variance = torch.linspace(3, 0.2, ELEMENTS, dtype=torch.float64)
    signal = normal() * signal_variance.sqrt()
    first, second = (signal + normal() * noise_variance.sqrt() for _ in range(2))
    return signal, first, second, signal_variance, noise_variance


def rates_of(first: Tensor, second: Tensor) -> Tensor:
    moments = metarl.step_moments({"w": first}, {"w": second})
    rates = metarl.signal_rates(*moments, LR)
    assert list(rates) == ["inner_lr.w"]
    assert rates["inner_lr.w"].requires_grad
    return rates["inner_lr.w"].detach()


def test_step_sizes_are_wieners() -> None:
    signal, first, second, s, n = steps()
    rates = rates_of(first, second)
    w = s / (s + n)
    expected = LR * w * s.sum() / (w * s).sum()
    torch.testing.assert_close(rates, expected, rtol=0, atol=5 * LR * 2 / TASKS**0.5)
    # As long along the signal as a step without a filter, and with far less noise beside it.
    along = (rates * first * signal).sum() / (LR * first * signal).sum()
    assert float(along) == pytest.approx(1, abs=0.01)
    noise, filtered = (x * (first - signal) for x in (LR, rates))
    assert float(filtered.square().mean()) < 0.7 * float(noise.square().mean())
    # Mutant: one support a task takes all of a step for signal.
    mutant = rates_of(first, first)
    torch.testing.assert_close(mutant, torch.full_like(mutant, LR))
    assert not torch.allclose(mutant, expected, atol=0.1)


def test_no_factor_brings_a_step_closer_to_its_signal() -> None:
    signal, first, second, s, n = steps()
    w = rates_of(first, second)
    w = w / w[-1] * (s / (s + n))[-1]  # without the common length

    def error(factors: Tensor) -> float:
        return float((factors * first - signal).square().mean())

    for other in (1.1 * w, 0.9 * w, torch.ones_like(w), s / (s + n).max()):
        assert error(w) < error(other)


def test_steps_without_anything_in_common_are_refused() -> None:
    d = torch.ones(3, 2)
    with pytest.raises(InputError, match="nothing in common"):
        metarl.signal_rates(*metarl.step_moments({"w": d}, {"w": -d}), LR)


def iterate(config: Config, count: int) -> tuple[list[dict[str, Tensor]], list[float]]:
    """Theta after each of some iterations, and the time steps sampled in it."""
    learner = PolicyLearner(config, DOUBLE)
    state = learner.init(0)
    found, sampled = [], []
    for i in range(count):
        sampled.append(float(learner.step(state, i)["env_steps"]))
        found.append({n: p.detach().clone() for n, p in state.params.items()})
    return found, sampled


def test_a_run_measures_once_and_counts_what_it_sampled() -> None:
    config = replace(SMALL, learned_lr="signal")
    found, sampled = iterate(config, 2)
    rates = metarl.split_rates(found[0])[1]
    assert all(len(rate.unique()) > 1 for rate in rates.values())
    most = config.meta_batch * config.episodes * config.env.horizon
    assert most * 2 < sampled[0] <= most * (2 + 2 * BATCHES)
    assert sampled[1] <= most * 2
    again, _ = iterate(config, 1)
    for name, p in again[0].items():
        assert torch.equal(p, found[0][name]), name


def test_without_a_signal_a_run_goes_on_with_steps_of_one_length() -> None:
    # No goal is in reach within the horizon: rewards are zero, and so are steps.
    env = replace(SMALL.env, sparse=True, task_range=(5.0, 6.0))
    config = replace(SMALL, env=env, learned_lr="signal")
    with pytest.warns(RunWarning, match=r"step sizes stay at 0\.\d+: .*nothing in common"):
        found, _ = iterate(config, 1)
    rates = metarl.split_rates(found[0])[1]
    assert rates
    assert all(bool((rate == config.inner_lr).all()) for rate in rates.values())


def test_a_measurement_that_never_comes_is_told() -> None:
    config = replace(SMALL, learned_lr="signal", signal_after=3)
    with pytest.warns(RunWarning, match="--signal-after 3 is not reached within --iterations 3"):
        PolicyLearner(replace(config, iterations=3), DOUBLE).init(0)
    PolicyLearner(replace(config, iterations=4), DOUBLE).init(0)


@pytest.mark.parametrize("update", ["trpo", "adam"])
def test_until_it_measures_a_run_is_one_without_learned_step_sizes(
    update: Literal["trpo", "adam"],
) -> None:
    config = replace(SMALL, learned_lr="signal", signal_after=2, update=update)
    found, sampled = iterate(config, 3)
    plain, _ = iterate(replace(SMALL, update=update), 2)
    for theta, truth in zip(found[:2], plain, strict=True):
        model, rates = metarl.split_rates(theta)
        for name, p in model.items():
            assert torch.equal(p, truth[name])
        assert all(bool((rate == config.inner_lr).all()) for rate in rates.values())
    assert all(len(rate.unique()) > 1 for rate in metarl.split_rates(found[2])[1].values())
    assert sampled[2] > 3 * max(sampled[:2])
    # Step sizes that --from brought count for nothing until then.
    learner = PolicyLearner(config, DOUBLE)
    state = learner.init(0)
    for rate in metarl.split_rates(state.params)[1].values():
        rate.data.mul_(3)
    learner.step(state, 0)
    for name, p in state.params.items():
        assert torch.equal(p, found[0][name])
    # Mutant: learned from the start, as Meta-SGD does, they have moved by then.
    element, _ = iterate(replace(SMALL, learned_lr="element", update=update), 1)
    assert any(len(rate.unique()) > 1 for rate in metarl.split_rates(element[0])[1].values())
