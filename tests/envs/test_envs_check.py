"""The contract check: our environments keep it, and each way of breaking it is found."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.utils import EzPickle
from gymnasium.utils.env_checker import check_env

from metarl_envs import WORLDS, check_task_env
from metarl_envs.check import _same

PHYSICS = ("paper", "gym")


@pytest.mark.parametrize("physics", PHYSICS)
@pytest.mark.parametrize("observe_task", [False, True])
@pytest.mark.parametrize("env_id", list(WORLDS))
def test_ours_pass(env_id: str, observe_task: bool, physics: str) -> None:
    env = gymnasium.make(env_id, physics=physics, observe_task=observe_task)
    check_env(env.unwrapped, skip_render_check=True)  # warnings are errors here
    assert check_task_env(gymnasium.make(env_id, physics=physics, observe_task=observe_task)) == []


class Walk(gymnasium.Env[Any, Any]):
    """A sound environment: a point on a line that is paid for moving in the task's direction."""

    observation_space = Box(-100.0, 100.0, (1,), np.float32)
    action_space: gymnasium.Space[Any] = Discrete(2)
    task: Any = None

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[Any]:
        return [{"direction": float(rng.choice([-1.0, 1.0]))} for _ in range(n)]

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if self.task is None:
            self.task = self.sample_tasks(1, self.np_random.spawn(1)[0])[0]
        self.x = float(self.np_random.normal())
        return self.observe(), {}

    def observe(self) -> Any:
        return np.array([self.x], dtype=np.float32)

    def step(self, action: Any) -> Any:
        move = 2.0 * action - 1.0
        self.x += 0.1 * move
        return self.observe(), self.task["direction"] * move, False, False, {}


class NoTask(gymnasium.Env[Any, Any]):
    """No task at all."""


class GlobalDraw(Walk):
    def sample_tasks(self, n: int, rng: Any) -> Any:
        return [{"direction": float(np.random.choice([-1.0, 1.0]))} for _ in range(n)]  # noqa: NPY002


class ArrayTasks(Walk):
    def sample_tasks(self, n: int, rng: Any) -> Any:
        return rng.choice([-1.0, 1.0], n)


class Forgetful(Walk):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        result = super().reset(seed=seed)
        self.task = self.sample_tasks(1, self.np_random)[0]
        return result


class Unsettable(Walk):
    @property
    def task(self) -> Any:
        return {"direction": 1.0}

    @task.setter
    def task(self, task: Any) -> None:
        pass


class Nondeterministic(Walk):
    def step(self, action: Any) -> Any:
        self.x += 0.01 * float(np.random.default_rng().normal())
        return super().step(action)


class Remembering(Walk):
    count = 0

    def step(self, action: Any) -> Any:
        self.count += 1  # never cleared
        observation, reward, *rest = super().step(action)
        return observation, reward + self.count, *rest


class Aliasing(Walk):
    def reset(self, **kwargs: Any) -> Any:
        self.buffer = np.zeros(1, dtype=np.float32)
        return super().reset(**kwargs)

    def observe(self) -> Any:
        self.buffer[0] = self.x
        return self.buffer


class Unpicklable(Walk):
    def __init__(self) -> None:
        self.handle = (number for number in range(3))


class Amnesiac(Walk):
    def __init__(self) -> None:
        self.sign = 1.0

    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, self.sign * reward, *rest

    def __getstate__(self) -> Any:
        return {"sign": -1.0, "task": self.task}


class Rebuilt(EzPickle, Walk):
    """As gymnasium's MuJoCo environments: pickled as the arguments of the constructor."""

    def __init__(self) -> None:
        EzPickle.__init__(self)
        self.task = {"direction": 7.0}


class Kept(Rebuilt):
    """With the two lines that the advice has."""

    def __getstate__(self) -> Any:
        return super().__getstate__() | {"task": self.task}

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self.task = state["task"]


class Leaking(Walk):
    def observe(self) -> Any:
        return np.array([self.x + self.task["direction"]], dtype=np.float32)


class NotFinite(Walk):
    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        return observation, float("nan"), *rest


class StartsNowhere(Walk):
    def reset(self, **kwargs: Any) -> Any:
        _, info = super().reset(**kwargs)
        return np.array([np.nan], dtype=np.float32), info


class ReadOnly(Walk):
    """A property without a setter."""

    @property
    def task(self) -> Any:  # type: ignore[override]
        return {"direction": 1.0}

    @task.setter
    def task(self, value: Any) -> None:
        if hasattr(self, "made"):
            raise AttributeError("property 'task' of 'ReadOnly' object has no setter")
        self.made = True


class Nested(Walk):
    action_space = Box(-1.0, 1.0, (2, 2), np.float32)

    def step(self, action: Any) -> Any:
        return super().step(int(action.sum() > 0))


class Generatorless(Walk):
    """``sample_tasks`` takes no generator, and that is not all."""

    action_space = Box(0, 5, (1,), np.int32)

    def sample_tasks(self, n: int) -> Any:  # type: ignore[override]
        return [{"direction": 1.0}] * n

    def step(self, action: Any) -> Any:
        return super().step(int(action[0] > 2))


def test_a_sound_environment_passes() -> None:
    assert check_task_env(Walk()) == []


class Tasks(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Task, distribution and reward on top of an environment that has none of them."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.task: Any = {"direction": 1.0}

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[Any]:
        return [{"direction": float(rng.choice([-1.0, 1.0]))} for _ in range(n)]

    def step(self, action: Any) -> Any:
        observation, _, *rest = self.env.step(action)
        return observation, self.task["direction"] * float(observation[0]), *rest


class Telling(Tasks):
    """Shows the task in the observation."""

    def reset(self, **kwargs: Any) -> Any:
        observation, info = self.env.reset(**kwargs)
        return observation + np.float32(self.task["direction"]), info


class Oracle(Telling):
    observe_task = True


class Taskless(gymnasium.Env[Any, Any]):
    """What there is to wrap."""

    observation_space = Box(-100.0, 100.0, (1,), np.float32)
    action_space: gymnasium.Space[Any] = Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x = np.zeros(1, np.float32)
        return self.x.copy(), {}

    def step(self, action: Any) -> Any:
        self.x += np.float32(0.2 * action - 0.1)
        return self.x.copy(), 0.0, False, False, {}


class Copied(Walk):
    """Reads its task once, when it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.held = {"direction": 1.0}

    def step(self, action: Any) -> Any:
        told, self.task = self.task, self.held
        result = super().step(action)
        self.task = told
        return result


def test_a_task_that_changes_nothing_is_told() -> None:
    with pytest.warns(UserWarning, match=r"earn the same in 8 tasks.*reads self\.task"):
        assert check_task_env(Copied()) == []


def test_tasks_may_be_a_wrappers() -> None:
    assert check_task_env(gymnasium.wrappers.TimeLimit(Tasks(Taskless()), 10)) == []
    (fault,) = check_task_env(gymnasium.wrappers.TimeLimit(Telling(Taskless()), 10))
    assert "depends on the task" in fault
    assert len(check_task_env(gymnasium.wrappers.TimeLimit(Taskless(), 10))) == 2
    assert check_task_env(gymnasium.wrappers.TimeLimit(Oracle(Taskless()), 10)) == []


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (Unpicklable, "it fails"),
        (Amnesiac, "behaves differently"),
        (Rebuilt, r"another task: def __getstate__\(self\): return super\(\).__getstate__\(\) \| "),
    ],
)
def test_pickling_is_advice(env: Any, words: str) -> None:
    """Training works without, in this process and in workers."""
    with pytest.warns(UserWarning, match=f"which training does not need: .*{words}") as told:
        assert check_task_env(env()) == []
    assert len(told) == 1
    assert check_task_env(Kept()) == []


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (NoTask, "no attribute `task`"),
        (GlobalDraw, "draw from the generator"),
        (ArrayTasks, "return a list"),
        (Forgetful, "reset changed the task"),
        (Unsettable, "keep it as it is"),
        (ReadOnly, "task cannot be set"),
        (Nondeterministic, "different episodes"),
        (Remembering, "different episodes"),
        (Aliasing, "return a copy"),
        (Leaking, "depends on the task"),
        (NotFinite, "not finite"),
        (StartsNowhere, "reset gives an observation that is not finite"),
        (Nested, "action_space"),
        (Generatorless, "of floats"),
        (Generatorless, "it takes a number and numpy's Generator"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_environments_are_found(broken: Any, words: str) -> None:
    faults = check_task_env(broken())
    assert any(words in fault for fault in faults), faults
    if broken in (NotFinite, StartsNowhere):  # NaN is unlike itself, which is nobody's draw
        assert not any("different" in fault or "copy" in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"goal": [1.0, 2.0]}, {"goal": np.array([1.0, 2.0])}, True),
        ({"goal": [1.0, 2.0]}, {"goal": np.array([1.0, 2.5])}, False),
        ({"goal": [1.0, 2.0]}, {"goal": [1.0]}, False),
        ({"parts": [[1.0], [2.0, 3.0]]}, {"parts": ([1], np.array([2.0, 3.0]))}, True),
        ({"name": "left"}, {"name": "right"}, False),
        ({"a": 1.0}, {"b": 1.0}, False),
        ({"a": np.zeros(())}, {"a": np.zeros(())}, True),
    ],
)
def test_tasks_are_alike_as_lists_and_as_arrays(one: Any, other: Any, same: bool) -> None:
    assert _same(one, other) is same
