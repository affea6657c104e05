"""Policies and models with a parameter of no dimension, such as a gain."""

from typing import Any

import pytest
import torch
from meta_steps import Setting, updated, walk
from torch import Tensor, nn

from metarl import InnerLoop, from_module, reptile_loss
from metarl.errors import NonFiniteError
from metarl.rl.objectives import policy_objectives

NAN = float("nan")


class Scaled(nn.Module):
    """The walk's policy, its observations times a learned number."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.gain = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, observations: Tensor) -> Any:
        return self.inner(self.gain * observations)


def scaled() -> Setting:
    setting = walk()
    policy = Scaled(setting.policy)
    theta, apply = from_module(policy)
    objectives = policy_objectives(apply, setting.options["objectives"].inner)
    return Setting(policy, theta, {**setting.options, "policy": policy, "objectives": objectives})


@pytest.mark.parametrize("name", ["trpo", "adam"])
def test_meta_iteration(name: str) -> None:
    setting = scaled()
    before = setting.theta["gain"].item()
    theta, metrics = setting.step(updated(setting, name)[0])
    assert theta["gain"].item() != before
    assert metrics["inner_grad_norm"] > 0


def test_what_is_not_finite_is_named() -> None:
    setting = scaled()
    with torch.no_grad():
        setting.theta["gain"].fill_(NAN)
    with pytest.raises(NonFiniteError, match="parameter gain of task 0"):
        setting.step(updated(setting, "trpo")[0])


def test_reptile() -> None:
    params = {"x": torch.tensor(2.0, dtype=torch.float64, requires_grad=True)}
    centres = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def loss(params: Any, centre: Tensor) -> Tensor:
        return 0.5 * (params["x"] - centre).square()

    value = reptile_loss(loss, params, [centres], InnerLoop(0.5))
    assert value.item() == pytest.approx(0.5 * (1.0**2 + 0.5**2) / 2)
