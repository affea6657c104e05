"""The native vector environment: every task and episode in one batch."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from .inputs import finite_actions, positive, reset_options
from .physics import HUGE, available_threads
from .starts import starts
from .tasks import Array, Task
from .world import Motion, World

Observations = NDArray[np.float32]
Flags = NDArray[np.bool_]
Infos = dict[str, Any]


class TaskVectorEnv(VectorEnv[Observations, Array, NDArray[Any]]):
    """``num_envs`` copies of one world, each with its own task, stepped as one batch.

    ``make_vec("metarl/...", num_envs=n)`` makes it; the world's docstring is the card. Nothing is
    reset by itself: an episode that ended stays as it is, with reward and velocity 0, until it is
    reset.

    - ``reset(seed=..., options=...)``; options: ``"reset_mask"`` ``(num_envs,)`` of the
      environments to reset (default: all), ``"block": (first, total)``: these are the rows
      ``first:first + num_envs`` of a batch of ``total`` environments, whose parts, wherever they
      run, start as the whole would. Another ``total`` below 4096 is another batch: the same rows
      then start otherwise.
    - ``step(actions (num_envs, action))`` returns fresh arrays: observations
      ``(num_envs, feature)`` float32, rewards ``(num_envs,)`` float64, terminated, truncated, and
      infos: the reward's terms, ``"velocity"``, ``"position"``, ``"diverged"``, an array each. The
      observation of an episode's last step is its true final one.
    - ``set_attr("task", [task, ...])``: a task counts from the next step on and survives reset.
      Before any is set, the first reset draws them.
    - ``sample_tasks(n, rng)`` draws tasks.
    - ``block_starts``: ``reset`` knows ``"block"``, and episodes that ended may be stepped along.
    - ``threaded``: whether steps are computed on threads of their own, not on the caller's.

    Args:
        world: the world's class, or ``"module:Class"``.
        num_envs: environments in the batch.
        physics: ``"paper"`` or ``"gym"``.
        horizon: steps until truncation; default: the world's.
        task_range: low and high of the task distribution; default: the world's.
        observe_task: append the task to the observation (oracles).
        render_mode: ``"rgb_array"`` or None.
        threads: physics threads; default: the cores. Results do not depend on it.
        options: further arguments of the world.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.DISABLED,
        "render_modes": ["rgb_array"],
    }
    block_starts = True
    closed = True  # nothing to close before there is a world

    def __init__(
        self,
        world: str | type[World],
        num_envs: int = 1,
        *,
        physics: str = "paper",
        horizon: int | None = None,
        task_range: tuple[float, float] | None = None,
        observe_task: bool = False,
        render_mode: str | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        make = _world_type(world) if isinstance(world, str) else world
        self.horizon = positive("horizon", make.horizon if horizon is None else horizon)
        self.num_envs = positive("num_envs", num_envs)
        threads = positive("threads", available_threads() if threads is None else threads)
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode must be "rgb_array" or None, got {render_mode!r}')
        self.world: World = make(  # type: ignore[call-arg]
            num_envs, physics=physics, threads=threads, task_range=task_range, **options
        )
        self.threaded = self.world.threaded
        self.observe_task = observe_task
        self.render_mode = render_mode
        fps = max(1, round(1 / self.world.time_step))
        self.metadata = {**self.metadata, "render_fps": fps}
        features = self.world.observation_size + observe_task * self.world.tasks.size
        limit = self.world.action_limit
        self.single_observation_space: Space[Any] = Box(-HUGE, HUGE, (features,), np.float32)
        self.single_action_space: Space[Any] = Box(
            -limit, limit, (self.world.action_size,), np.float32
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._tasks: Array | None = None
        self._states: Array | None = None
        self._observations = np.zeros((num_envs, self.world.observation_size), dtype=np.float32)
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._terminated = np.zeros(num_envs, dtype=bool)
        self._truncated = np.zeros(num_envs, dtype=bool)
        self._invalid = np.zeros(num_envs, dtype=bool)
        self._position: Array | None = None  # which ended episodes keep; one or two numbers a row
        self.closed = False

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[Task]:
        """Draw ``n`` tasks from the task distribution."""
        return self.world.tasks.sample(n, rng)

    @property
    def task(self) -> list[Task] | None:
        """The tasks, one per environment; None before any is set or drawn."""
        return None if self._tasks is None else self.world.tasks.unpack(self._tasks)

    @task.setter
    def task(self, tasks: Sequence[Task]) -> None:
        self.set_attr("task", tasks)

    def set_attr(self, name: str, values: Any) -> None:
        """Set ``task`` of every environment: a list of one per environment, or one for all.

        Raises:
            ValueError: not tasks of this world, or not as many as environments.
        """
        if name != "task":
            raise AttributeError(f'only "task" can be set, not {name!r}')
        if isinstance(values, dict):
            values = [values] * self.num_envs
        if not isinstance(values, list | tuple):
            raise ValueError(f"tasks come as a list of dictionaries, not {type(values).__name__}")
        if len(values) != self.num_envs:
            raise ValueError(
                f"got {len(values)} tasks for {self.num_envs} environments; give one for each"
            )
        self._tasks = self.world.tasks.pack(values)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Attribute of every environment: ``task``, or one that all share."""
        if name == "task" and self._tasks is not None:
            return tuple(self.world.tasks.unpack(self._tasks))
        return (getattr(self, name),) * self.num_envs

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, Infos]:
        """Start episodes; the class docstring has the options."""
        super().reset(seed=seed)
        mask, (first, total) = reset_options(options or {}, self.num_envs)
        rows = range(first, first + self.num_envs)
        states = starts(self.world, rows, total, self.np_random)
        if self._tasks is None:
            # A stream of its own: the starting noise does not depend on whether tasks were set.
            drawn = self.world.tasks.draw(total, self.np_random.spawn(1)[0])
            self._tasks = drawn[rows.start : rows.stop]
        if self._states is None:
            self._states = np.empty_like(states)
            mask = np.ones(self.num_envs, dtype=bool)
        self._states[mask] = states[mask]
        self._observations[mask] = self.world.observe(states)[mask]
        records = (self._steps, self._terminated, self._truncated, self._invalid, self._position)
        for record in records:
            if record is not None:
                record[mask] = 0
        return self._observed(), {"diverged": self._invalid.copy()}

    def step(self, actions: Any) -> tuple[Observations, Array, Flags, Flags, Infos]:
        """Advance every running episode by one step.

        Raises:
            ValueError: an action is not finite (the message names the environment), or the shape
                is wrong.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if self._states is None or self._tasks is None:
            raise ResetNeeded("call reset() before step()")
        actions = finite_actions(actions, (self.num_envs, self.world.action_size))
        ended = self._terminated | self._truncated
        if not ended.any():
            return self._advance(slice(None), self._states, actions, self._tasks)
        live = np.flatnonzero(~ended)
        return self._advance(live, self._states[live], actions[live], self._tasks[live])

    def _advance(
        self, live: Any, states: Array, actions: NDArray[Any], tasks: Array
    ) -> tuple[Observations, Array, Flags, Flags, Infos]:
        assert self._states is not None
        motion = self.world.advance(states, actions)
        if self._position is None:
            shape = (self.num_envs, *motion.position.shape[1:])
            self._position = np.zeros(shape, dtype=motion.position.dtype)
        terms = {"reward_task": self.world.reward(motion, tasks), **motion.terms}
        terminated = self.world.terminated(motion, tasks)
        if motion.invalid.any():
            self._drop_invalid(live, motion, terms, terminated)
        self._states[live] = motion.states
        self._observations[live] = motion.observations
        self._position[live] = motion.position
        self._steps[live] += 1
        self._terminated[live] = terminated
        self._truncated[live] = (self._steps[live] >= self.horizon) | motion.invalid
        self._invalid[live] = motion.invalid

        infos: Infos = {"velocity": motion.velocity, **terms}
        if len(states) < self.num_envs:
            infos = {name: self._scatter(live, value) for name, value in infos.items()}
        infos["position"] = self._position.copy()
        reward = infos["reward_task"].copy()
        for name in motion.terms:
            reward += infos[name]
        infos["diverged"] = self._invalid.copy()
        return self._observed(), reward, self._terminated.copy(), self._truncated.copy(), infos

    def _drop_invalid(
        self, live: Any, motion: Motion, terms: dict[str, Array], terminated: Flags
    ) -> None:
        """Diverged rows: nothing paid, the last observation that was real, and no more."""
        bad = motion.invalid
        motion.observations[bad] = self._observations[live][bad]
        terminated[bad] = False
        for values in (motion.velocity, *terms.values()):
            values[bad] = 0.0
        assert self._position is not None
        motion.position[bad] = self._position[live][bad]

    def _scatter(self, live: NDArray[np.int64], values: Array) -> Array:
        whole = np.zeros((self.num_envs, *values.shape[1:]), dtype=values.dtype)
        whole[live] = values
        return whole

    def _observed(self) -> Observations:
        if not self.observe_task:
            return self._observations.copy()
        assert self._tasks is not None
        return np.concatenate((self._observations, self._tasks), axis=1, dtype=np.float32)

    def render(self) -> tuple[Any, ...] | None:
        """A picture ``(height, width, 3)`` of every environment."""
        if self.render_mode is None or self._states is None or self._tasks is None:
            return None
        rows = zip(self._states, self._tasks, strict=True)
        return tuple(self.world.render(state, task) for state, task in rows)

    def close_extras(self, **kwargs: Any) -> None:
        """Release the world's threads and windows."""
        self.world.close()


def _world_type(path: str) -> type[World]:
    module, _, name = path.partition(":")
    found: type[World] = getattr(import_module(module), name)
    return found
