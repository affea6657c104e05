"""A point in the plane that must reach a goal it does not see."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .tasks import Array, uniform
from .world import Motion, check_physics

_PIXELS = 256
_VIEW = 1.0  # metres shown on each side of the origin


class Navigation2D:
    """Two-dimensional navigation: ``metarl/Navigation2D-v0``.

    ## Description
    A point starts at the origin and moves by the action itself, one displacement per step. The
    goal differs from task to task and is not observed: only the reward tells where it lies. There
    is no physics engine, and ``physics="paper"`` and ``physics="gym"`` are the same.

    ## Task distribution
    ``{"goal": array(2)}``, metres, each coordinate uniform on [-0.5, 0.5].

    ## Action space
    ``Box(-0.1, 0.1, (2,), float32)``: the displacement in metres; larger actions are clipped.

    ## Observation space
    ``Box(-1e10, 1e10, (2,), float32)``: the position in metres. With ``observe_task=True`` the goal
    follows.

    ## Rewards
    Dense: ``-norm(p - goal)`` in metres, not squared, p the position after the step
    (``info["reward_task"]``). Sparse: 0 outside radius 0.2 of the goal, else
    ``0.2 - norm(p - goal)``. The undiscounted return of the dense reward is about -80 for an
    untrained policy and -0.5 on the shortest way, each in the mean over goals.

    ## Starting state
    (0, 0), always.

    ## Episode end
    Terminated when ``abs(dx) < 0.01`` and ``abs(dy) < 0.01``; truncated after 100 steps.

    ## Arguments
    ``horizon=100``, ``task_range=(-0.5, 0.5)`` (low and high of both coordinates),
    ``observe_task=False``, ``sparse=False``, ``render_mode=None`` or ``"rgb_array"``,
    ``physics="paper"``.

    ## Differences
    The paper's text describes a squared distance; the published environment, and this one, take
    the distance. Ports differ in the radius of the end and in the range of goals.

    ## Version history
    v0: first version.
    """

    horizon: ClassVar[int] = 100
    threaded: ClassVar[bool] = False

    def __init__(
        self,
        rows: int,
        *,
        physics: str = "paper",
        threads: int = 1,
        task_range: tuple[float, float] | None = None,
        sparse: bool = False,
    ) -> None:
        check_physics(physics)
        del rows, threads  # arithmetic on the calling thread, for any number of rows
        self.tasks = uniform("goal", 2, task_range, (-0.5, 0.5))
        self.sparse = sparse
        self.observation_size = 2
        self.action_size = 2
        self.action_limit = 0.1
        self.time_step = 1.0

    def start(self, total: int, rng: np.random.Generator) -> Array:
        """Every point at the origin; draws nothing."""
        del rng
        return np.zeros((total, 2))

    def observe(self, states: Array) -> NDArray[np.float32]:
        """Positions ``(n, 2)``."""
        return states.astype(np.float32)

    def advance(self, states: Array, actions: Array) -> Motion:
        """Move by the clipped action."""
        # In the actions' own type: where they are float32, the limit is 1.5e-9 above 0.1.
        displacement = np.clip(actions, -self.action_limit, self.action_limit)
        after = states + displacement
        invalid = np.zeros(len(states), dtype=bool)
        return Motion(after, self.observe(after), displacement, after, {}, invalid)

    def reward(self, motion: Motion, task: Array) -> Array:
        """Negative distance to the goal, or the sparse reward."""
        offset = motion.position - task
        distance = np.sqrt(offset[:, 0] ** 2 + offset[:, 1] ** 2)
        if self.sparse:
            return np.where(distance <= 0.2, 0.2 - distance, 0.0)
        return -distance

    def terminated(self, motion: Motion, task: Array) -> NDArray[np.bool_]:
        """Whether the point is within 0.01 of the goal in both coordinates."""
        near = np.abs(motion.position - task) < 0.01
        return near[:, 0] & near[:, 1]

    def render(self, state: Array, task: Array) -> NDArray[np.uint8]:
        """Point (blue) and goal (green) seen from above, y upwards, 2 m wide."""
        picture = np.full((_PIXELS, _PIXELS, 3), 255, dtype=np.uint8)
        axis = (np.arange(_PIXELS) + 0.5) / _PIXELS * 2 * _VIEW - _VIEW
        for (x, y), colour in ((task, (0, 160, 0)), (state, (0, 0, 200))):
            disc = (axis[None, :] - x) ** 2 + (-axis[:, None] - y) ** 2 < 0.03**2
            picture[disc] = colour
        return picture

    def close(self) -> None:
        """Nothing to release."""
