"""Inner steps as long as a task has to go: the regret against one by hand, and its use."""

from collections.abc import Callable

import pytest
import torch
from meta_steps import walk
from torch import Tensor

from metarl import InnerLoop
from metarl.rl.clock import Clock
from metarl.rl.collect import collect_meta_batch
from metarl.rl.rollout import Rollout, map_rollout
from metarl.rl.weighting import Weighting, regret


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    """Episodes of three tasks, some ended early."""
    setting = walk()
    collected = collect_meta_batch(setting.theta, seed=3, clock=Clock(), **setting.options)
    assert 0 < collected.rollouts[0].mask.mean() < 1
    return collected.rollouts[0]


def by_hand(rollout: Rollout, best: float) -> Tensor:
    regrets = []
    for rewards, mask in zip(rollout.rewards, rollout.mask, strict=True):
        steps = [float(r) for r, m in zip(rewards.flatten(), mask.flatten(), strict=True) if m]
        regrets.append(max(0.0, best - sum(steps) / len(steps)))
    return torch.tensor(regrets, dtype=torch.float64)


def wrong(rollout: Rollout, best: float, *, name: str) -> Tensor:
    """Mutants."""
    if name == "behind the mask":
        return (best - rollout.rewards.double().mean((1, 2))).clamp(min=0)
    if name == "sum":
        return (best - rollout.rewards.double().sum((1, 2))).clamp(min=0)
    if name == "unclamped":
        return best - (rollout.rewards * rollout.mask).double().sum((1, 2)) / rollout.mask.sum(
            (1, 2)
        )
    return by_hand(rollout, best).mean().expand(len(rollout.rewards))


def right(measure: Callable[[Rollout, float], Tensor], rollout: Rollout) -> bool:
    return all(
        torch.allclose(measure(rollout, best), by_hand(rollout, best), rtol=1e-6, atol=1e-9)
        for best in (-0.1, 0.0, 0.7)
    )


def test_regret_is_below_the_best_reward(rollout: Rollout) -> None:
    assert right(regret, rollout)


@pytest.mark.parametrize("name", ["behind the mask", "sum", "unclamped", "over tasks"])
def test_mutants_of_the_regret(rollout: Rollout, name: str) -> None:
    assert not right(lambda r, best: wrong(r, best, name=name), rollout)


@pytest.mark.parametrize("discrete", [False, True])
def test_regret_scales_supports_alone(discrete: bool) -> None:
    """The inner step grows by the regret, and the query's weights stay in units of their own."""
    plain = walk(discrete=discrete, inner=InnerLoop(1e-3))
    scaled = walk(discrete=discrete, inner=InnerLoop(1e-3), weighting=Weighting(best_reward=0.7))
    one, other = (
        collect_meta_batch(s.theta, seed=0, clock=Clock(), **s.options) for s in (plain, scaled)
    )
    factor = regret(one.rollouts[0], 0.7)
    assert factor.unique().numel() == 3
    for name, p in plain.theta.items():
        step, longer = one.path[1][name] - p, other.path[1][name] - p
        assert torch.allclose(longer, step * factor.reshape(-1, *[1] * p.dim()), atol=1e-12)
    query, mask = other.data.query.weights, other.data.query.mask
    sizes = (query.square() * mask).sum((1, 2)) / mask.sum((1, 2))
    assert torch.allclose(sizes, torch.ones_like(sizes), atol=1e-4)


def distances_kept(weighting: Weighting) -> bool:
    """Whether a step goes twice as far for a goal twice as far, cost ``|a - goal|``."""
    setting = walk([{"slope": 1.0}], episodes=200, horizon=1, init_std=0.05)
    collected = collect_meta_batch(setting.theta, seed=0, clock=Clock(), **setting.options)
    # The same actions for two goals that lie beyond them all, where the cost has slope 1.
    rollout = map_rollout(lambda x: x.expand(2, *x.shape[1:]), collected.rollouts[0])
    goals = torch.tensor([10.0, 20.0], dtype=torch.float64)[:, None, None]
    rollout = rollout._replace(rewards=rollout.actions[..., 0] - goals)
    steps = (weighting.support(rollout) * rollout.actions[..., 0]).mean((1, 2))
    return abs(float(steps[1] / steps[0]) - 2) < 0.02


def test_steps_are_as_long_as_the_way() -> None:
    assert distances_kept(Weighting(best_reward=0.0))
    assert not distances_kept(Weighting())
    assert not distances_kept(Weighting(standardized=False))


def test_what_all_expect_is_no_advantage() -> None:
    """Returns without variation leave the baseline's rounding, which is no step to take."""
    setting = walk(episodes=20)
    rollout = collect_meta_batch(setting.theta, seed=3, **setting.options).rollouts[0]
    mask = rollout.mask.clone()
    mask[..., 1:] = 0  # of one step: equal returns
    first = rollout._replace(mask=mask, rewards=5.0 * mask)
    assert not Weighting()(first).any()
    assert not Weighting().support(first).any()
    first.rewards[1, 0, 0] += 1.0
    some = Weighting()(first).abs().amax((1, 2))
    assert (some > 0).tolist() == [False, True, False]


def test_lambda_of_supports_alone(rollout: Rollout) -> None:
    """Inner steps weigh by their own lambda; the query, and all by default, by the other."""
    weighting = Weighting(gae_lambda=0.9, inner_gae_lambda=0.3)
    assert torch.equal(weighting.support(rollout), Weighting(gae_lambda=0.3)(rollout))
    assert torch.equal(weighting.split(rollout)[0], Weighting(gae_lambda=0.9)(rollout))
    assert torch.equal(weighting(rollout), weighting.split(rollout)[0])
    assert torch.equal(Weighting(gae_lambda=0.9).support(rollout), weighting(rollout))
    assert not torch.allclose(weighting.support(rollout), weighting(rollout), atol=1e-3)
    # 0 is a value of its own, not a missing one.
    zero = Weighting(gae_lambda=0.9, inner_gae_lambda=0.0).support(rollout)
    assert torch.equal(zero, Weighting(gae_lambda=0.0)(rollout))
