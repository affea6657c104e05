"""A family small enough to see through: theta descends to a target with Adam."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from metarl.errors import NonFiniteError
from metarl.streams import stream
from metarl_experiments.family import Evaluation, Metrics, State
from metarl_experiments.machine import Machine
from metarl_experiments.memory import Needs


@dataclass
class Toy:
    """Loss |theta - noisy target|^2; `spoil` is the iteration whose gradient is not finite."""

    machine: Machine = field(default_factory=lambda: Machine("cpu", "float64", 1, "vmap", "off"))
    shown: tuple[str, str] = ("loss_before", "loss_after")
    higher_is_better: bool = False
    spoil: int = -1
    calls: list[str] = field(default_factory=list)

    def init(self, seed: int) -> State:
        params = {"theta": torch.zeros(3, dtype=torch.float64, requires_grad=True)}
        return State(params, torch.optim.Adam(params.values(), lr=0.1), {"seed": seed})

    def needs(self, state: State) -> Needs:
        return Needs(0, 0)

    def step(self, state: State, iteration: int) -> Metrics:
        self.calls.append(f"step {iteration}")
        theta = state.params["theta"]
        target = torch.from_numpy(
            stream(state.extra["seed"], "target", iteration).normal(1, 0.1, 3)
        )
        loss = (theta - target).square().sum()
        if iteration == self.spoil:
            raise NonFiniteError(
                "the loss is nan", place="loss", task=1, batch={"x": np.array([np.nan])}
            )
        assert state.optimizer is not None
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        return {"loss_before": 4.0, "loss_after": loss.detach()}

    def validate(self, state: State) -> Metrics:
        self.calls.append("validate")
        return {"loss_after": float((state.params["theta"] - 1).square().sum().detach())}

    def evaluate(self, params: dict[str, torch.Tensor], options: Any) -> Evaluation:
        raise NotImplementedError


class Silent:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.updates: list[int] = []
        self.closed = False

    def update(self, iteration: int, metrics: dict[str, float]) -> None:
        self.updates.append(iteration)

    def say(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None:
        self.closed = True
