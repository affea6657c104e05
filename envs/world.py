"""What an environment is made of: batched dynamics, a task family and a reward."""

from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .tasks import Array, TaskFamily

PHYSICS = ("paper", "gym")


class Motion(NamedTuple):
    """One step of ``n`` environments.

    Attributes:
        states: ``(n, state)`` after the step; a buffer that the next step overwrites.
        observations: ``(n, feature)`` float32, fresh.
        velocity: ``(n,)`` or ``(n, 2)``, what the info reports as ``velocity``.
        position: ``(n,)`` or ``(n, 2)`` in metres, what a goal is compared with.
        terms: ``(n,)`` each: the reward's terms that do not depend on the task, by info name.
        invalid: ``(n,)`` the physics diverged; such a row stays where it was.
    """

    states: Array
    observations: NDArray[np.float32]
    velocity: Array
    position: Array
    terms: dict[str, Array]
    invalid: NDArray[np.bool_]


class World(Protocol):
    """Batched dynamics of one environment, without state of its own, and its reward.

    The class's docstring is the environment's card. The constructor takes ``(rows, *, physics,
    threads, task_range, **options)``. ``threaded`` says whether `advance` computes on threads of
    its own, beside which a caller's other work goes on.
    """

    horizon: ClassVar[int]
    threaded: ClassVar[bool]
    tasks: TaskFamily
    observation_size: int
    action_size: int
    action_limit: float
    time_step: float

    def start(self, total: int, rng: np.random.Generator) -> Array:
        """Starting states ``(total, state)``, all drawn from ``rng`` in canonical order."""

    def observe(self, states: Array) -> NDArray[np.float32]:
        """Observations ``(n, feature)`` of starting states."""

    def advance(self, states: Array, actions: Array) -> Motion:
        """One step from ``states (n, state)`` under ``actions (n, action)``, clipped here."""

    def reward(self, motion: Motion, task: Array) -> Array:
        """The task's reward term ``(n,)``, given packed tasks ``(n, size)``."""

    def terminated(self, motion: Motion, task: Array) -> NDArray[np.bool_]:
        """Flags ``(n,)`` of episodes that ended by the environment's own rule."""

    def render(self, state: Array, task: Array) -> NDArray[np.uint8]:
        """Picture ``(height, width, 3)`` of one row."""

    def close(self) -> None:
        """Release threads and windows."""


def check_physics(physics: Any) -> str:
    """``physics`` if it is one of the two variants.

    Raises:
        ValueError: it is not.
    """
    if physics not in PHYSICS:
        raise ValueError(f'physics must be "paper" or "gym", got {physics!r}')
    return str(physics)
