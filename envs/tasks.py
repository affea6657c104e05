"""Task families: how tasks are drawn, checked and packed into arrays.

A task is a dictionary with one entry, ``{"velocity": float}``, ``{"direction": 1.0 or -1.0}`` or
``{"goal": array(2)}``; a batch of tasks is a list of them, packed into one array ``(n, size)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Task = dict[str, Any]


@dataclass(frozen=True)
class TaskFamily:
    """One kind of task.

    Attributes:
        key: the dictionary entry that holds the task's value.
        size: numbers in the value; 1 means a plain float.
        draw: ``(n, rng) -> (n, size)``, the task distribution.
        allowed: the only values a task may have, or None where any finite number will do.
    """

    key: str
    size: int
    draw: Callable[[int, np.random.Generator], Array]
    allowed: tuple[float, ...] | None = None

    def sample(self, n: int, rng: np.random.Generator) -> list[Task]:
        """Draw ``n`` independent tasks from the task distribution."""
        return self.unpack(self.draw(n, rng))

    def unpack(self, values: Array) -> list[Task]:
        """Tasks of packed values ``(n, size)``; the arrays inside are copies."""
        if self.size == 1:
            return [{self.key: float(value)} for value in values[:, 0]]
        return [{self.key: value.copy()} for value in values]

    def pack(self, tasks: Sequence[Task]) -> Array:
        """Values ``(n, size)`` of a list of tasks.

        Raises:
            ValueError: something in the list is no task of this family.
        """
        values = np.empty((len(tasks), self.size))
        for row, task in enumerate(tasks):
            values[row] = self._value(row, task)
        return values

    def _value(self, row: int, task: Task) -> Array:
        kind = "a number" if self.size == 1 else f"an array of {self.size} numbers"
        form = f'{{"{self.key}": {kind}}}'
        if not isinstance(task, dict) or set(task) != {self.key}:
            raise ValueError(f"task {row} is {task!r}; a task here is a dictionary {form}")
        try:
            value = np.asarray(task[self.key], dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            value = np.empty(0)
        if value.shape != (self.size,) or not np.isfinite(value).all():
            raise ValueError(f"task {row} is {task!r}; a task here is {form}, all finite")
        if self.allowed is not None and value[0] not in self.allowed:
            raise ValueError(f"task {row} is {task!r}; {self.key} must be one of {self.allowed}")
        return value


def uniform(
    key: str, size: int, task_range: tuple[float, float] | None, default: tuple[float, float]
) -> TaskFamily:
    """Family of tasks whose numbers are uniform on ``task_range``, else on ``default``.

    Raises:
        ValueError: the range is not two finite numbers in order.
    """
    bounds = np.asarray(default if task_range is None else task_range, dtype=np.float64)
    if bounds.shape != (2,) or not np.isfinite(bounds).all() or bounds[0] > bounds[1]:
        raise ValueError(f"task_range must be two finite numbers, low <= high; got {task_range}")
    return TaskFamily(key, size, partial(_draw_uniform, size=size, bounds=bounds))


def _draw_uniform(n: int, rng: np.random.Generator, *, size: int, bounds: Array) -> Array:
    return rng.uniform(bounds[0], bounds[1], (n, size))


def direction(task_range: tuple[float, float] | None = None) -> TaskFamily:
    """Family of the two directions, +1 (forward) and -1 (backward), equally likely.

    Raises:
        ValueError: a ``task_range`` is given; two directions have no range.
    """
    if task_range is not None:
        raise ValueError("task_range does not apply: the tasks are the two directions; leave it")
    return TaskFamily("direction", 1, _draw_direction, allowed=(-1.0, 1.0))


def _draw_direction(n: int, rng: np.random.Generator) -> Array:
    return np.where(rng.random((n, 1)) < 0.5, -1.0, 1.0)
