"""The single environment: the vector environment with one row."""

from typing import Any

import numpy as np
from gymnasium import Env
from numpy.typing import NDArray

from .tasks import Array, Task
from .vector import TaskVectorEnv
from .world import World


class TaskEnv(Env[NDArray[np.float32], Array]):
    """One environment whose reward depends on ``task``.

    ``make("metarl/...")`` makes it; the world's docstring is the card and `TaskVectorEnv` has the
    arguments. It is that vector environment with one row, so both give the same numbers.

    ``task`` is settable, through wrappers by ``env.unwrapped.task = ...`` or
    ``env.set_wrapper_attr("task", ...)``; it counts from the next step on and survives reset.
    Before one is set, the first reset draws one.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, world: str | type[World], **arguments: Any) -> None:
        self._batch = TaskVectorEnv(world, 1, **{"threads": 1, **arguments})
        self.metadata = {**self.metadata, "render_fps": self._batch.metadata["render_fps"]}
        self.render_mode = self._batch.render_mode
        self.observation_space = self._batch.single_observation_space
        self.action_space = self._batch.single_action_space

    @property
    def observe_task(self) -> bool:
        """Whether the observation ends with the task."""
        return self._batch.observe_task

    @property
    def world(self) -> World:
        """Dynamics, task family and reward."""
        return self._batch.world

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[Task]:
        """Draw ``n`` tasks from the task distribution."""
        return self._batch.sample_tasks(n, rng)

    @property
    def task(self) -> Task | None:
        """The task; None before one is set or drawn."""
        tasks = self._batch.task
        return None if tasks is None else tasks[0]

    @task.setter
    def task(self, task: Task) -> None:
        self._batch.set_attr("task", [task])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; option ``"block": (row, total)`` starts as that row of a batch does."""
        super().reset(seed=seed)
        self._batch.np_random = self.np_random
        observations, infos = self._batch.reset(options=options)
        return observations[0], _first(infos)

    def step(self, action: Array) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Advance by one step; the vector environment's, for one row."""
        observations, rewards, terminated, truncated, infos = self._batch.step(
            np.asarray(action)[None]
        )
        return (
            observations[0],
            float(rewards[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            _first(infos),
        )

    def render(self) -> Any:
        """Picture ``(height, width, 3)``, with ``render_mode="rgb_array"``."""
        pictures = self._batch.render()
        return None if pictures is None else pictures[0]

    def close(self) -> None:
        """Release threads and windows."""
        self._batch.close()


def _first(infos: dict[str, Any]) -> dict[str, Any]:
    """A batch's infos as those of its only row: numbers, or copies of arrays."""
    return {name: value[0].item() if value.ndim == 1 else value[0] for name, value in infos.items()}
