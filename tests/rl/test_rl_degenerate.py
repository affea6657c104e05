"""Degenerate data: everything stays finite, and a rejected step leaves theta as it was."""

from typing import Any

import numpy as np
import pytest
import torch
from meta_steps import Setting, trpo, updated, walk
from torch import Tensor

from metarl import InnerLoop
from metarl.params import Params
from metarl.rl.clock import Clock
from metarl.rl.collect import collect_meta_batch
from metarl.rl.weighting import Weighting

F32 = torch.float32
UPDATES = ("trpo", "adam", "promp")


def finite_step(setting: Setting, name: str = "trpo") -> tuple[Params, dict[str, float]]:
    update, _ = updated(setting, name)
    theta, metrics = setting.step(update)
    assert all(np.isfinite(x) for x in metrics.values()), metrics
    assert all(bool(p.isfinite().all()) for p in theta.values())
    if not metrics["step_accepted"]:
        assert all(theta[n] is p for n, p in setting.theta.items())
    return theta, metrics


FLAT = [{"slope": 0.0}] * 3


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("discrete", [False, True])
def test_one_step_episodes(name: str, discrete: bool) -> None:
    finite_step(walk(horizon=1, discrete=discrete, dtype=F32), name)


@pytest.mark.parametrize(
    ("name", "correction"),
    [*((name, "off") for name in UPDATES), ("trpo", "emaml"), ("adam", "emaml")],
)
def test_equal_rewards(name: str, correction: Any) -> None:
    _, metrics = finite_step(walk(FLAT, dtype=F32, sampling_correction=correction), name)
    assert metrics["inner_grad_norm"] == 0
    if name == "trpo":
        assert metrics["step_accepted"] == 0  # s'As = 0


def test_tasks_of_equal_rewards_do_not_drown_the_others() -> None:
    """Their weights have no unit in which a return could be credited to the support."""
    setting = walk([{"slope": 0.0}, {"slope": 1.0}], dtype=F32, sampling_correction="emaml")
    scores = collect_meta_batch(
        setting.theta, seed=0, clock=Clock(), **setting.options
    ).data.score_weights
    assert scores[0] == 0
    assert 0 < scores[1].abs() < 100


def test_equal_weights_standardise_to_zero() -> None:
    """In float32 the rounding of their mean would be blown up to size 1 (the mutant)."""
    setting = walk(dtype=F32, horizon=1, episodes=12)
    rollout = collect_meta_batch(setting.theta, seed=0, clock=Clock(), **setting.options).rollouts[
        0
    ]
    rollout = rollout._replace(rewards=torch.full_like(rollout.rewards, 0.7))
    weights = Weighting(baseline="zero")(rollout)
    assert weights.abs().max() < 1e-6
    mean = rollout.rewards.sum((1, 2), keepdim=True) / 12
    centred: Tensor = rollout.rewards - mean
    mutant = centred / (centred.square().mean((1, 2), keepdim=True).sqrt() + 1e-8)
    assert mutant.abs().max() > 0.5


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("tasks", [FLAT, None])
def test_zero_inner_gradient(optimizer: Any, clip: float | None, tasks: Any) -> None:
    inner = InnerLoop(0.1, optimizer=optimizer, clip=clip)
    finite_step(walk(tasks, inner=inner, dtype=F32))


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("init_std", [1e-6, 1e-3, 1e3, 1e6])
def test_tiny_and_huge_sigma(name: str, init_std: float) -> None:
    finite_step(walk(init_std=init_std, dtype=F32, inner=InnerLoop(1e-7)), name)


def test_no_step_is_tried_below_what_the_type_resolves() -> None:
    setting = walk(dtype=F32)
    theta, metrics = setting.step(trpo(setting, max_kl=1e-30))
    assert (metrics["step_accepted"], metrics["backtracks"], metrics["kl"]) == (0, 0, 0)
    assert all(theta[n] is p for n, p in setting.theta.items())
