"""The check that an environment keeps the contract the sampler relies on."""

import warnings
from collections.abc import Callable, Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env, data_equivalence

_STEPS = 20
_SEED = 123
# The pickled state of gymnasium's EzPickle, its MuJoCo environments' base, is the constructor's
# arguments.
_KEEP_THE_TASK = (
    'def __getstate__(self): return super().__getstate__() | {"task": self.task}; '
    'def __setstate__(self, state): super().__setstate__(state); self.task = state["task"]'
)

Env = gymnasium.Env[Any, Any]


def check_task_env(env: Env) -> list[str]:
    """Faults of an environment with tasks, each with how to mend it; an empty list is a pass.

    Most faults have others behind them, which are looked for once they are mended. Gymnasium's own
    checker runs first (its advice comes as Python warnings). Then: spaces the sampler takes;
    ``sample_tasks(n, rng)`` gives a list of dictionaries, from ``rng`` alone; ``task`` can be set,
    is what was set and survives reset; everything is finite; equal seeds, tasks and actions give
    bit-equal episodes; returned observations are not overwritten later; the first observation
    does not depend on the task (an environment whose ``observe_task`` is true is exempt).

    Advice, Python warnings too: that a pickled copy goes on as the original does, which training
    needs not, since worker processes make their environments and are told the tasks, but other
    programs may; and that some random steps earn otherwise in other tasks, unless rewards are rare.

    Args:
        env: the environment, wrapped or not, ``task`` and ``sample_tasks`` its own or a wrapper's;
            it is reset and stepped, not closed.
    """
    faults = list(_interface(env))
    if faults:
        return faults
    told = env.has_wrapper_attr("observe_task") and env.get_wrapper_attr("observe_task")
    faults = _found(_gymnasium, env)
    # Each presupposes those before it, and would say their faults again.
    for checks in (
        (_spaces, _sampling),
        (_setting,),
        (_finite,),
        (_determinism, _aliasing),
        () if told else (_leak,),
    ):
        found = [fault for check in checks for fault in _found(check, env)]
        if found:
            return faults + found
    if faults:
        return faults
    for text in _found(_pickling, env):
        warnings.warn(f"pickling, which training does not need: {text}", stacklevel=2)
    for text in _found(_reward, env):
        warnings.warn(text, stacklevel=2)
    return []


def _found(check: Callable[[Env], Iterator[str]], env: Env) -> list[str]:
    try:
        return list(check(env))
    except Exception as error:  # a check that cannot be finished is a fault of its own
        return [f"{check.__name__.strip('_')}: {type(error).__name__}: {error}"]


def _interface(env: Env) -> Iterator[str]:
    if not env.has_wrapper_attr("task"):
        yield "no attribute `task`: give the environment one that can be read and set"
    if not (
        env.has_wrapper_attr("sample_tasks") and callable(env.get_wrapper_attr("sample_tasks"))
    ):
        yield "no method `sample_tasks(n, rng)`: return a list of n tasks drawn from the generator"


def _gymnasium(env: Env) -> Iterator[str]:
    try:
        check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
    except (
        Exception
    ) as error:  # the checker raises assertions, its own and the environment's errors
        yield f"gymnasium's checker: {error}"


def _spaces(env: Env) -> Iterator[str]:
    observation, action = env.observation_space, env.action_space
    if not isinstance(observation, Box) or len(observation.shape) != 1:
        yield (
            f"observation_space is {observation}: flatten it to a Box of one dimension, as "
            "gymnasium.wrappers.FlattenObservation does"
        )
    if not isinstance(action, Discrete) and not (
        isinstance(action, Box)
        and len(action.shape) == 1
        and np.issubdtype(action.dtype, np.floating)
    ):
        yield f"action_space is {action}: the sampler takes Discrete and flat Box of floats"


def _draw(env: Env, n: int = 2) -> list[Any]:
    tasks: list[Any] = env.get_wrapper_attr("sample_tasks")(n, np.random.default_rng(_SEED))
    return tasks


def _global_state() -> str:
    # Only to see that nobody draws from it.
    return str(np.random.get_state(legacy=False))  # noqa: NPY002


def _sampling(env: Env) -> Iterator[str]:
    before = _global_state()
    try:
        tasks = _draw(env, 3)
    except TypeError as error:
        yield f"sample_tasks(n, rng) fails ({error}): it takes a number and numpy's Generator"
        return
    if not isinstance(tasks, list) or len(tasks) != 3:
        yield f"sample_tasks(3, rng) gave {tasks!r}: return a list of 3 tasks"
    elif not all(isinstance(task, dict) for task in tasks):
        yield f'tasks are {type(tasks[0]).__name__}: make each a dictionary, {{"name": value}}'
    drawn_globally = _global_state() != before
    if drawn_globally or not data_equivalence(tasks, _draw(env, 3), exact=True):
        yield "sample_tasks draws from elsewhere: draw from the generator it is given, only"


def _setting(env: Env) -> Iterator[str]:
    for task in _draw(env):
        try:
            env.set_wrapper_attr("task", task)
        except AttributeError as error:
            yield f"task cannot be set ({error}): make it a plain attribute, or one with a setter"
            return
        kept = env.get_wrapper_attr("task")
        if not _same(kept, task):
            yield f"task reads {kept!r} after setting {task!r}: keep it as it is"
        env.reset(seed=_SEED)
        if not _same(env.get_wrapper_attr("task"), kept):
            yield "reset changed the task: draw one in reset only while none was ever set"


def _same(one: Any, other: Any) -> bool:
    """Whether tasks hold the same numbers, as lists or as arrays."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if _has_rows(one) and _has_rows(other):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(data_equivalence(one, other, exact=True) or (np.isscalar(one) and one == other))


def _has_rows(x: Any) -> bool:
    return isinstance(x, list | tuple) or (isinstance(x, np.ndarray) and x.ndim > 0)


def _episode(env: Env) -> list[Any]:
    """Seeded start and steps under fixed actions: what every call returned, infos aside."""
    observation, _ = env.reset(seed=_SEED)
    env.action_space.seed(_SEED)
    record: list[Any] = [np.array(observation)]
    for _ in range(_STEPS):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        record.append((np.array(observation), float(reward), bool(terminated), bool(truncated)))
        if terminated or truncated:
            break
    return record


def _finite(env: Env) -> Iterator[str]:
    env.set_wrapper_attr("task", _draw(env)[0])
    start, *steps = _episode(env)
    if not np.isfinite(start).all():
        yield "reset gives an observation that is not finite: start where all numbers are"
    if not all(np.isfinite(step[0]).all() and np.isfinite(step[1]) for step in steps):
        yield "an observation or reward is not finite: end the episode instead"


def _determinism(env: Env) -> Iterator[str]:
    first, second = _draw(env)
    env.set_wrapper_attr("task", first)
    once = _episode(env)
    env.set_wrapper_attr("task", second)
    _episode(env)
    env.set_wrapper_attr("task", first)
    if not data_equivalence(once, _episode(env), exact=True):
        yield (
            "equal seed, task and actions gave different episodes: draw only from self.np_random, "
            "call super().reset(seed=seed), and let reset clear everything an episode leaves "
            "behind; running statistics, as of NormalizeObservation, stay from episode to episode"
        )


def _aliasing(env: Env) -> Iterator[str]:
    returned, _ = env.reset(seed=_SEED)
    env.action_space.seed(_SEED)
    for _ in range(3):
        kept = np.array(returned)
        following, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if np.shares_memory(returned, following) or not np.array_equal(kept, returned):
            yield "step writes into an observation returned before: return a copy"
            return
        returned = following
        if terminated or truncated:
            return


def _pickling(env: Env) -> Iterator[str]:
    env.set_wrapper_attr("task", _draw(env)[0])
    env.reset(seed=_SEED)
    try:
        # As another process would receive it.
        copy = ForkingPickler.loads(bytes(ForkingPickler.dumps(env)))
    except Exception as error:  # pickling fails with whatever the members raise
        yield f"it fails ({error}): drop threads, windows and handles in __getstate__"
        return
    held = env.get_wrapper_attr("task")
    if not data_equivalence(copy.get_wrapper_attr("task"), held, exact=True):
        yield f"a pickled copy has another task: {_KEEP_THE_TASK}"
        copy.set_wrapper_attr("task", held)
    if not data_equivalence(_episode(copy), _episode(env), exact=True):
        yield "a pickled copy behaves differently: pickle all that reset and step depend on"
    copy.close()


def _reward(env: Env) -> Iterator[str]:
    episodes = []
    for task in _draw(env, 8):
        env.set_wrapper_attr("task", task)
        episodes.append(_episode(env))
    if all(data_equivalence(episodes[0], episode, exact=True) for episode in episodes[1:]):
        yield (
            f"{_STEPS} random steps earn the same in 8 tasks: if rewards are not rare, see that "
            "step reads self.task each time"
        )


def _leak(env: Env) -> Iterator[str]:
    starts = []
    for task in _draw(env, 8):
        env.set_wrapper_attr("task", task)
        starts.append(np.array(env.reset(seed=_SEED)[0]))
    if any(not np.array_equal(starts[0], start) for start in starts[1:]):
        yield (
            "the first observation depends on the task, which the policy must find out by itself: "
            "take it out of the observation and of the start, or set `observe_task = True` if the "
            "policy may know it"
        )
