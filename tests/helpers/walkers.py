"""Small environments of a user's own, for the sampler's tests: plain gymnasium, no batching."""

import time
from collections.abc import Collection, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

Observation = NDArray[np.float64]


class Walker(gymnasium.Env[Observation, Any]):
    """Random walk: observes position and time; ends beyond 1.5, or after 9 steps at the latest.

    The reward is the task's slope times the position. ``fault`` is ``(time, where, value)``.
    """

    def __init__(self, *, discrete: bool = False) -> None:
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float64)
        self.discrete = discrete
        if discrete:
            self.action_space: gymnasium.Space[Any] = Discrete(3, start=-1)
        else:
            self.action_space = Box(np.float32([-0.2, -np.inf]), np.float32([0.6, np.inf]))
        self.task: dict[str, Any] = {"slope": 0.0}

    @staticmethod
    def sample_tasks(n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        return [{"slope": float(x)} for x in rng.uniform(-1, 1, n)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.time = self.np_random.normal(), 0
        return self._observed(), {}

    def _observed(self) -> Observation:
        return np.array([self.position, self.time / 10])

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.position += 0.3 * action if self.discrete else action[0] + 0.1 * np.sin(action[1])
        self.time += 1
        observation, reward = self._observed(), self.task["slope"] * self.position
        at, where, value = self.task.get("fault", (None, "", 0.0))
        info = {"diverged": False}
        if self.time == at and where == "hang":
            time.sleep(3600)
        if self.time == at:
            reward = value if where == "reward" else reward
            observation[1] = value if where == "observation" else observation[1]
            info["diverged"] = where == "invalid"
        return observation, float(reward), bool(abs(self.position) > 1.5), self.time >= 9, info


def diverging(envs: VectorEnv[Any, Any, Any], rows: Collection[int]) -> None:
    """Make the first step of these rows invalid, whatever tasks are set from now on."""
    base: Any = envs
    set_attr = base.set_attr

    def faulty(name: str, values: Sequence[dict[str, Any]]) -> None:
        fault = {"fault": (1, "invalid", 0.0)}
        set_attr(name, [{**v, **fault} if i in rows else v for i, v in enumerate(values)])

    base.set_attr = faulty
