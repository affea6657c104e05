from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metarl.errors import NonFiniteError
from metarl.rl import baseline
from metarl.rl.advantages import advantages, discounted_sum, gae, standardize
from metarl.rl.distributions import Gaussian
from metarl.rl.rollout import Rollout
from metarl.rl.weighting import Weighting

TASKS, EPISODES, TIME, FEATURES = 4, 5, 12, 3
DISCOUNT, LAMBDA = 0.9, 0.8


def _rollout(seed: int, *, episodes: int = EPISODES, time: int = TIME) -> Rollout:
    """Random episodes of random lengths, ended by either kind of end."""
    g = torch.Generator().manual_seed(seed)
    shape = (TASKS, episodes, time)
    lengths = torch.randint(1, time + 1, shape[:2], generator=g)
    mask = (torch.arange(time) < lengths.unsqueeze(-1)).double()
    last = torch.arange(time) == lengths.unsqueeze(-1) - 1
    by_rule = torch.rand(shape[:2], generator=g) < 0.5
    draw = torch.randn(*shape, FEATURES, generator=g, dtype=torch.float64)
    return Rollout(
        observations=draw,
        actions=draw[..., :1],
        rewards=torch.randn(shape, generator=g, dtype=torch.float64),
        mask=mask,
        terminated=last & by_rule.unsqueeze(-1),
        truncated=last & ~by_rule.unsqueeze(-1),
        final_observations=torch.randn(TASKS, episodes, FEATURES, generator=g).double(),
        distribution=Gaussian(draw, draw),
    )


def _brute_force(
    rollout: Rollout, values: Tensor, final_value: Tensor, end: Callable[[bool, bool], bool]
) -> Tensor:
    """Equation 16 of the paper as a double sum, one number at a time."""
    out = torch.zeros_like(rollout.rewards)
    for i in range(rollout.rewards.shape[0]):
        for j in range(rollout.rewards.shape[1]):
            length = int(rollout.mask[i, j].sum())
            deltas = []
            for t in range(length):
                following = values[i, j, t + 1] if t + 1 < length else final_value[i, j]
                ends = t + 1 == length and end(
                    bool(rollout.terminated[i, j, t]), bool(rollout.truncated[i, j, t])
                )
                deltas.append(
                    rollout.rewards[i, j, t]
                    + DISCOUNT * following * (0 if ends else 1)
                    - values[i, j, t]
                )
            for t in range(length):
                out[i, j, t] = sum(
                    (DISCOUNT * LAMBDA) ** (k - t) * deltas[k] for k in range(t, length)
                )
    return out


ENDS: dict[bool, Callable[[bool, bool], bool]] = {
    True: lambda terminated, truncated: terminated,
    False: lambda terminated, truncated: terminated or truncated,
}


def _gae(rollout: Rollout, values: Tensor, final_value: Tensor, *, bootstrap: bool) -> Tensor:
    return gae(
        rollout.rewards,
        values,
        final_value,
        rollout.mask,
        rollout.terminated,
        discount=DISCOUNT,
        gae_lambda=LAMBDA,
        bootstrap_time_limit=bootstrap,
    )


def _values(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1000 + seed)
    values = torch.randn(TASKS, EPISODES, TIME, generator=g, dtype=torch.float64)
    return values, torch.randn(TASKS, EPISODES, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("bootstrap", [True, False])
def test_gae_against_brute_force(bootstrap: bool) -> None:
    for seed in range(10):  # 20 rows each: 200 random masks
        rollout, (values, final_value) = _rollout(seed), _values(seed)
        found = _gae(rollout, values, final_value, bootstrap=bootstrap)
        exact = _brute_force(rollout, values, final_value, ENDS[bootstrap])
        assert torch.allclose(found, exact, rtol=0, atol=1e-12)


def _leaky(rollout: Rollout, values: Tensor, final_value: Tensor) -> Tensor:
    """Mutant: the backward recursion runs through the episodes of a task laid end to end."""
    out = torch.zeros_like(rollout.rewards)
    last = rollout.terminated | rollout.truncated
    for i in range(TASKS):
        carry = torch.zeros((), dtype=torch.float64)
        for j in reversed(range(EPISODES)):
            for t in reversed(range(int(rollout.mask[i, j].sum()))):
                following = 0.0 if last[i, j, t] else values[i, j, t + 1]
                delta = rollout.rewards[i, j, t] + DISCOUNT * following - values[i, j, t]
                carry = delta + DISCOUNT * LAMBDA * carry
                out[i, j, t] = carry
    return out


def test_gae_mutants_are_seen() -> None:
    rollout, (values, final_value) = _rollout(0), _values(0)
    exact = {b: _brute_force(rollout, values, final_value, end) for b, end in ENDS.items()}
    ends_exchanged = _gae(rollout, values, final_value, bootstrap=False)
    assert (ends_exchanged - exact[True]).abs().max() > 0.1
    # An automatic reset hands over the next episode's first observation instead of the true last.
    of_reset = values[..., 0].roll(-1, 1)
    assert (_gae(rollout, values, of_reset, bootstrap=True) - exact[True]).abs().max() > 0.1
    assert (_leaky(rollout, values, final_value) - exact[False]).abs().max() > 0.1


def test_discounted_sum_is_the_discounted_return() -> None:
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    power = 0.9 ** torch.arange(6.0, dtype=torch.float64)
    for t in range(6):
        expected = (power[: 6 - t] * x[..., t:]).sum(-1)
        assert torch.allclose(discounted_sum(x, 0.9)[..., t], expected, rtol=0, atol=1e-12)


def test_standardized_per_task_over_valid_steps() -> None:
    rollout = _rollout(3)
    shift = torch.tensor([0.0, 5.0, -7.0, 1.0], dtype=torch.float64)[:, None, None]
    found = standardize(rollout.rewards + shift, rollout.mask)
    for task in range(TASKS):
        valid = found[task][rollout.mask[task] > 0]
        assert abs(valid.mean()) < 1e-12
        assert abs(valid.std(correction=0) - 1) < 1e-7
        assert bool((found[task][rollout.mask[task] == 0] == 0).all())
        alone = standardize((rollout.rewards + shift)[task], rollout.mask[task])
        assert torch.allclose(alone, found[task], rtol=0, atol=1e-12)
    # Shifting or scaling the input changes nothing; dividing by the variance would.
    assert torch.allclose(standardize(3 * rollout.rewards + 2, rollout.mask), found, atol=1e-6)


def test_equal_rewards_give_zero() -> None:
    rollout = _rollout(0)
    rollout = rollout._replace(rewards=torch.full_like(rollout.rewards, -1.0))
    flat = Weighting(discount=0.0, baseline="zero")(rollout)
    assert bool((flat == 0).all())
    assert bool(Weighting()(rollout).isfinite().all())


def test_baseline_features() -> None:
    observations = torch.tensor([[[0.5, -20.0], [11.0, 2.0]]])
    found = baseline.features(observations, torch.tensor([0, 150]))
    assert found.dtype == torch.float64
    expected = [[0.5, -10, 0.25, 100, 0, 0, 0, 1], [10, 2, 100, 4, 1.5, 2.25, 3.375, 1]]
    assert torch.allclose(found, torch.tensor([expected], dtype=torch.float64), atol=1e-12)


def test_baseline_against_a_dense_least_squares() -> None:
    """The augmented system [X; sqrt(ridge) I] w = [y; 0] by numpy's SVD."""
    rollout, ridge = _rollout(0, episodes=20), 1e-5
    x = baseline.features(rollout.observations[0], torch.arange(TIME))
    y, mask = rollout.rewards[0], rollout.mask[0]
    weights = baseline.fit(x, y, mask)
    valid = mask.numpy() > 0
    rows = np.concatenate((x.numpy()[valid], np.sqrt(ridge) * np.eye(x.shape[-1])))
    targets = np.concatenate((y.numpy()[valid], np.zeros(x.shape[-1])))
    exact = np.linalg.lstsq(rows, targets, rcond=None)[0]
    predicted = baseline.predict(weights, x)
    assert np.allclose(weights.numpy(), exact, rtol=0, atol=1e-8)
    assert np.allclose(predicted.numpy(), x.numpy() @ exact, rtol=0, atol=1e-8)


def test_baseline_needs_float64() -> None:
    """Mutant: the same normal equations in float32 miss a target the features hold exactly."""
    steps = torch.arange(200)
    g = torch.Generator().manual_seed(0)
    observations = 3 + 0.01 * torch.randn(20, 200, 3, generator=g)
    x = baseline.features(observations, steps)
    truth = torch.randn(x.shape[-1], generator=g, dtype=torch.float64)
    y, mask = x @ truth, torch.ones(20, 200)
    error = (baseline.predict(baseline.fit(x, y, mask), x) - y).std() / y.std()
    rows = x.float().reshape(-1, x.shape[-1])
    gram = rows.T @ rows + 1e-5 * torch.eye(x.shape[-1])
    mutant = rows @ torch.linalg.solve(gram, rows.T @ y.float().reshape(-1))
    assert error < 1e-4
    assert (mutant - y.float().reshape(-1)).std() / y.std() > 10 * error


def test_time_feature_counts_from_each_reset() -> None:
    """Mutant: time running over concatenated episodes cannot fit a return that depends on it."""
    rewards = torch.zeros(1, 4, 50, dtype=torch.float64)
    y = ((torch.arange(50.0) / 100) ** 3).double().expand_as(rewards)
    observations = torch.zeros(1, 4, 50, 1)
    ones = torch.ones_like(rewards)[0]
    x = baseline.features(observations[0], torch.arange(50))
    assert (baseline.predict(baseline.fit(x, y[0], ones), x) - y[0]).abs().max() < 1e-3
    running = baseline.features(observations[0], torch.arange(200).reshape(4, 50))
    assert (baseline.predict(baseline.fit(running, y[0], ones), running) - y[0]).std() > 0.01


@pytest.mark.parametrize("scale", [0.0, 100.0, 1e5])  # the last needs a larger ridge
def test_singular_baseline_is_finite(scale: float) -> None:
    x = scale * torch.ones(3, 4, 5, dtype=torch.float64)
    weights = baseline.fit(x, torch.ones(3, 4), torch.ones(3, 4))
    assert bool(weights.isfinite().all())


def test_no_valid_step_gives_zero_weights() -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    assert bool((baseline.fit(x, torch.ones(3, 4), torch.zeros(3, 4)) == 0).all())
    rollout = _rollout(0)
    rollout.mask[1] = 0
    found = advantages(rollout)
    assert bool((found[1] == 0).all())
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("bootstrap", [True, False])
@pytest.mark.parametrize("value", ["linear", "zero"])
def test_advantages_put_together(bootstrap: bool, value: str) -> None:
    rollout = _rollout(5, episodes=20)
    found = advantages(
        rollout,
        discount=DISCOUNT,
        gae_lambda=LAMBDA,
        bootstrap_time_limit=bootstrap,
        value=value,  # type: ignore[arg-type]
    )
    values, final_value = torch.zeros_like(rollout.rewards), torch.zeros(TASKS, 20).double()
    if value == "linear":
        for task in range(TASKS):
            x = baseline.features(rollout.observations[task], torch.arange(TIME))
            returns = discounted_sum((rollout.rewards * rollout.mask)[task], DISCOUNT)
            weights = baseline.fit(x, returns, rollout.mask[task])
            values[task] = baseline.predict(weights, x)
            for j in range(20):
                end = rollout.mask[task, j].sum()
                last = baseline.features(rollout.final_observations[task, j], end)
                final_value[task, j] = baseline.predict(weights, last)
    exact = _brute_force(rollout, values, final_value, ENDS[bootstrap])
    assert torch.allclose(found, exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("value", ["linear", "zero"])
def test_non_finite_rewards_are_named(bad: float, value: str) -> None:
    rollout = _rollout(0)
    rollout.rewards[2, 0, 0] = bad
    with pytest.raises(NonFiniteError) as caught:
        advantages(rollout, value=value)  # type: ignore[arg-type]
    assert caught.value.task == 2
    assert caught.value.place == ("baseline" if value == "linear" else "advantage")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_final_observations_count_where_they_are_valued(bad: float) -> None:
    clean, rollout = _rollout(0), _rollout(0)
    ended = rollout.terminated.any(-1)
    assert ended.any()
    assert not ended.all()
    rollout.final_observations[ended] = bad
    found = advantages(rollout, bootstrap_time_limit=True)
    assert torch.equal(found, advantages(clean, bootstrap_time_limit=True))
    task, episode = (int(i) for i in (~ended).nonzero()[-1])
    rollout.final_observations[task, episode, 1] = bad
    for options in ({}, {"bootstrap_time_limit": True, "value": "zero"}):
        assert bool(advantages(rollout, **options).isfinite().all())
    said = f"final observation of task {task}, episode {episode}"
    with pytest.raises(NonFiniteError, match=said) as caught:
        advantages(rollout, bootstrap_time_limit=True)
    assert (caught.value.place, caught.value.task) == ("final observation", task)
    rollout.mask[task, episode] = 0  # an invalid one
    assert bool(advantages(rollout, bootstrap_time_limit=True).isfinite().all())


@pytest.mark.parametrize(
    ("name", "value"),
    [("discount", 0.8), ("gae_lambda", 0.6), ("bootstrap_time_limit", True), ("baseline", "zero")],
)
def test_options_arrive(name: str, value: Any) -> None:
    rollout = _rollout(5, episodes=20)
    given: dict[str, Any] = {name: value}
    option = {"value" if name == "baseline" else name: value}
    found = Weighting(**given, standardized=False)(rollout)
    assert torch.equal(found, advantages(rollout, **option))
    assert not torch.allclose(found, advantages(rollout), atol=1e-3)
    for weighting in (Weighting(**given), Weighting(**given, standardized=False)):
        assert torch.equal(weighting.support(rollout), weighting(rollout))
