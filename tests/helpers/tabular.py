"""Tabular decision processes small enough to enumerate, and a vector environment of them."""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn

from metarl.params import Params
from metarl.rl.distributions import Categorical
from metarl.streams import stream

F64 = torch.float64


class MDP(NamedTuple):
    start: Tensor  # (state,)
    transition: Tensor  # (state, action, state)
    reward: Tensor  # (state, action)


def random_mdp(states: int, actions: int, seed: int) -> MDP:
    g = torch.Generator().manual_seed(seed)
    start = torch.rand(states, generator=g, dtype=F64)
    transition = torch.rand(states, actions, states, generator=g, dtype=F64)
    reward = torch.randn(states, actions, generator=g, dtype=F64)
    return MDP(start / start.sum(), transition / transition.sum(-1, keepdim=True), reward)


class Paths(NamedTuple):
    """All trajectories; their probability is without the policy's factors."""

    states: Tensor  # (path, time)
    actions: Tensor  # (path, time)
    rewards: Tensor  # (path, time)
    dynamics: Tensor  # (path,)

    def to_go(self) -> Tensor:
        """Undiscounted returns to go (path, time)."""
        return self.rewards.flip(-1).cumsum(-1).flip(-1)

    def log_probs(self, logits: Tensor) -> Tensor:
        """Of the actions (path, time)."""
        return torch.log_softmax(logits, -1)[self.states, self.actions]

    def probabilities(self, logits: Tensor) -> Tensor:
        """(path,)"""
        return self.dynamics * self.log_probs(logits).sum(-1).exp()

    def value(self, logits: Tensor) -> Tensor:
        """Expected return J."""
        return (self.probabilities(logits) * self.rewards.sum(-1)).sum()


def enumerate_paths(mdp: MDP, horizon: int) -> Paths:
    states, actions = mdp.reward.shape
    steps = torch.tensor(list(product(range(states), range(actions), repeat=horizon)))
    s, a = steps[:, ::2], steps[:, 1::2]
    dynamics = mdp.start[s[:, 0]]
    for t in range(horizon - 1):
        dynamics = dynamics * mdp.transition[s[:, t], a[:, t], s[:, t + 1]]
    return Paths(s, a, mdp.reward[s, a], dynamics)


def one_hot(states: Tensor, count: int) -> Tensor:
    return nn.functional.one_hot(states, count).to(F64)


def softmax_policy(params: Params, observations: Tensor) -> Categorical:
    return Categorical(observations @ params["logits"])


class SoftmaxPolicy(nn.Module):
    """Logits of every state, which is observed as a one-hot vector."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, observations: Tensor) -> Categorical:
        return softmax_policy({"logits": self.logits}, observations)


class Tabular(VectorEnv[Any, Any, Any]):
    """Plays ``mdp``; a task may bring its own reward table, ``{"reward": (state, action)}``."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012
    block_starts = True

    def __init__(self, mdp: MDP, *, num_envs: int, horizon: int, tasks: Any = None) -> None:
        self.mdp, self.num_envs, self.horizon, self._choose = mdp, num_envs, horizon, tasks
        states, actions = mdp.reward.shape
        self.single_observation_space = Box(0, 1, (states,), np.float32)
        self.single_action_space = Discrete(actions)
        self._rewards = np.broadcast_to(mdp.reward.numpy(), (num_envs, states, actions))

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        return [{} for _ in range(n)] if self._choose is None else self._choose(n, rng)

    def set_attr(self, name: str, values: Any) -> None:
        assert name == "task"
        own = self.mdp.reward.numpy()
        self._rewards = np.stack([task.get("reward", own) for task in values])

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        first, total = options["block"]
        noise = stream(seed, "tabular").random((total, self.horizon))
        self._noise = noise[first : first + self.num_envs]
        self._states = self._drawn(np.tile(self.mdp.start.numpy(), (self.num_envs, 1)), 0)
        self._time = 0
        return self._observed(), {}

    def _drawn(self, probabilities: Any, t: int) -> Any:
        return (self._noise[:, t, None] >= probabilities.cumsum(1)[:, :-1]).sum(1)

    def _observed(self) -> Any:
        return np.eye(len(self.mdp.start), dtype=np.float32)[self._states]

    def step(self, actions: Any) -> Any:
        rows = np.arange(self.num_envs)
        rewards = self._rewards[rows, self._states, actions]
        self._time += 1
        ended = np.full(self.num_envs, self._time == self.horizon)
        if not ended[0]:
            self._states = self._drawn(
                self.mdp.transition.numpy()[self._states, actions], self._time
            )
        return self._observed(), rewards, np.zeros_like(ended), ended, {}
