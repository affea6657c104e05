"""Environments of one's own: a room to heat (continuous) and a corridor to walk (discrete).

An environment with tasks is any gymnasium environment that has ``task``, to read and to set, and
``sample_tasks``. From the folder of this file:

    metarl check own_environment:Room-v0
    metarl train maml --env.id own_environment:Room-v0 --env.horizon 40 --iterations 30
    metarl train maml --env.id own_environment:Corridor-v0 --env.horizon 20 --iterations 30
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Room(gymnasium.Env):
    """Heat or cool a room to a temperature that only the reward tells.

    Observation: temperature inside, less 20 degrees, and outside. Action: heating in [-1, 1].
    Reward: -|temperature - wanted|. Task: ``{"wanted": U[-3, 3]}``, less 20 degrees.
    """

    observation_space = Box(-50.0, 50.0, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.task = {"wanted": 0.0}

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        """Draw from ``rng`` alone; gymnasium's own generator is for the episodes."""
        return [{"wanted": float(x)} for x in rng.uniform(-3, 3, n)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """The task stays: many episodes of one task is what adaptation learns from."""
        super().reset(seed=seed)
        self.inside = self.np_random.normal()
        self.outside = self.np_random.normal(scale=2.0)
        return self.observation(), {}

    def step(self, action: np.ndarray) -> Any:
        self.inside += 0.1 * (self.outside - self.inside) + float(action[0])
        reward = -abs(self.inside - self.task["wanted"])
        return self.observation(), reward, False, False, {}

    def observation(self) -> np.ndarray:
        return np.array([self.inside, self.outside], np.float32)


class Corridor(gymnasium.Env):
    """Walk to the end of a corridor that pays; which one, only the reward tells.

    Observation: position in [-1, 1]. Actions: 0 back, 1 stay, 2 forth. Reward: position times the
    task's ``{"end": -1 or 1}``.
    """

    observation_space = Box(-1.0, 1.0, (1,), np.float32)
    action_space = Discrete(3)

    def __init__(self) -> None:
        self.task = {"end": 1.0}

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        """Both ends alike."""
        return [{"end": float(x)} for x in rng.choice([-1, 1], n)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.position = float(self.np_random.uniform(-0.3, 0.3))
        return np.array([self.position], np.float32), {}

    def step(self, action: int) -> Any:
        self.position = float(np.clip(self.position + 0.1 * (int(action) - 1), -1, 1))
        reward = self.position * self.task["end"]
        return np.array([self.position], np.float32), reward, False, False, {}


gymnasium.register("Room-v0", Room)
gymnasium.register("Corridor-v0", Corridor)
