"""Tasks and the rewards that depend on them."""

import copy
import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest

from metarl_envs import WORLDS

IDS = list(WORLDS)
PHYSICS = ("paper", "gym")


def task_term(env_id: str, infos: dict[str, Any], task: dict[str, Any], row: int) -> float:
    """The table's task term, written out once more."""
    velocity, position = infos["velocity"][row], infos["position"][row]
    if "Navigation" in env_id:
        return -float(np.hypot(*(position - task["goal"])))
    if "Direction" in env_id:
        return float(task["direction"] * velocity)
    if "Goal" in env_id:
        return float(4 - np.abs(position - task["goal"]).sum())
    return float(("Ant" in env_id) - abs(velocity - task["velocity"]))


def costs(env_id: str, physics: str, action: Any, observation: Any) -> float:
    if "Navigation" in env_id:
        return 0.0
    squares = float((np.clip(action, -1, 1) ** 2).sum())
    if "Cheetah" in env_id:
        return 0.05 * squares
    forces = observation[29:113] if physics == "paper" else observation[27:105]
    contact = 0.0005 * float((forces.astype(np.float64) ** 2).sum())
    return 0.005 * squares + contact - 0.05 * (physics == "paper")


@pytest.mark.parametrize("physics", PHYSICS)
@pytest.mark.parametrize("env_id", IDS)
def test_rewards_recomputed(env_id: str, physics: str) -> None:
    envs = gymnasium.make_vec(env_id, num_envs=6, physics=physics)
    rng = np.random.default_rng(0)
    tasks = envs.unwrapped.sample_tasks(6, rng)
    envs.set_attr("task", tasks)
    envs.reset(seed=0)
    high = envs.single_action_space.high[0]
    for _ in range(20):
        actions = rng.uniform(-1.5, 1.5, envs.action_space.shape) * high
        observations, reward, _, _, infos = envs.step(actions)
        running = ~(envs.unwrapped._steps < envs.unwrapped._steps.max())
        for row in np.flatnonzero(running):
            term = task_term(env_id, infos, tasks[row], row)
            assert abs(infos["reward_task"][row] - term) < 1e-12
            # The forces in the observation are float32, hence 1e-6 for the sum of the costs.
            whole = term - costs(env_id, physics, actions[row], observations[row])
            assert abs(reward[row] - whole) < 1e-6
            parts = sum(infos[name][row] for name in infos if name.startswith("reward_"))
            assert abs(reward[row] - parts) < 1e-12
    # Mutant: another row's task gives another reward.
    assert abs(infos["reward_task"][0] - task_term(env_id, infos, _other(tasks), 0)) > 1e-6
    envs.close()


def _other(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    return next(task for task in tasks[1:] if str(task) != str(tasks[0]))


@pytest.mark.parametrize("env_id", IDS)
def test_tasks_survive_reset_and_pickling(env_id: str) -> None:
    envs = gymnasium.make_vec(env_id, num_envs=3)
    tasks = envs.unwrapped.sample_tasks(3, np.random.default_rng(1))
    envs.set_attr("task", tasks)
    envs.reset(seed=0)
    for changed in (envs, pickle.loads(pickle.dumps(envs)), copy.deepcopy(envs)):
        changed.reset(seed=5)
        for held in (changed.unwrapped.task, changed.unwrapped.get_attr("task")):
            for own, given in zip(held, tasks, strict=True):
                assert own.keys() == given.keys()
                assert all(np.array_equal(own[key], given[key]) for key in given)


@pytest.mark.parametrize("env_id", IDS)
def test_pickled_batch_goes_on_alike(env_id: str) -> None:
    envs = gymnasium.make_vec(env_id, num_envs=3)
    envs.reset(seed=0)
    action = envs.action_space.sample()
    envs.step(action)
    twin = pickle.loads(pickle.dumps(envs))
    for ours, theirs in zip(envs.step(action)[:4], twin.step(action)[:4], strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(envs.reset()[0], twin.reset()[0])


def test_first_reset_draws_tasks_and_later_ones_keep_them() -> None:
    envs = gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", num_envs=50)
    assert envs.unwrapped.task is None
    first, _ = envs.reset(seed=0)
    drawn = envs.unwrapped.task
    assert 0.2 < np.std([task["velocity"] for task in drawn]) < 1.0
    envs.reset(seed=9)
    assert envs.unwrapped.task == drawn
    given = gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", num_envs=50)
    given.set_attr("task", drawn[::-1])
    assert np.array_equal(given.reset(seed=0)[0], first)


def test_part_of_a_batch_draws_the_tasks_of_its_rows() -> None:
    drawn = []
    for first, rows in ((0, 6), (3, 3)):
        envs = gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", num_envs=rows)
        envs.reset(seed=0, options={"block": (first, 6)})
        drawn.append(envs.unwrapped.task)
    assert drawn[1] == drawn[0][3:]


def test_tasks_that_are_read_are_copies() -> None:
    envs = gymnasium.make_vec("metarl/Navigation2D-v0", num_envs=2)
    envs.reset(seed=0)
    before = [task["goal"].copy() for task in envs.unwrapped.task]
    envs.unwrapped.task[0]["goal"][:] = 9.0
    for task, goal in zip(envs.unwrapped.task, before, strict=True):
        assert np.array_equal(task["goal"], goal)


def test_set_attr_wants_one_task_each() -> None:
    envs = gymnasium.make_vec("metarl/Navigation2D-v0", num_envs=3)
    goal = {"goal": np.zeros(2)}
    envs.set_attr("task", goal)
    assert len(envs.unwrapped.task) == 3
    for wrong, words in (
        ([goal] * 2, "2 tasks for 3"),
        (np.zeros((3, 2)), "list of dictionaries"),
        ([goal, goal, {"velocity": 1.0}], "task 2"),
        ([goal, {"goal": np.array([0.0, np.nan])}, goal], "task 1"),
        ([{"goal": "far"}, goal, goal], "task 0"),
    ):
        with pytest.raises(ValueError, match=words):
            envs.set_attr("task", wrong)
    with pytest.raises(AttributeError, match="task"):
        envs.set_attr("horizon", [1, 1, 1])
    single = gymnasium.make("metarl/HalfCheetahDirection-v0")
    with pytest.raises(ValueError, match="one of"):
        single.unwrapped.task = {"direction": 0.5}
    single.set_wrapper_attr("task", {"direction": -1.0})
    assert single.unwrapped.task == {"direction": -1.0}


@pytest.mark.parametrize("env_id", IDS)
def test_task_distribution(env_id: str) -> None:
    env = gymnasium.make(env_id)
    rng = np.random.default_rng(0)
    tasks = env.unwrapped.sample_tasks(4000, rng)
    values = np.array([next(iter(task.values())) for task in tasks])
    if "Direction" in env_id:
        assert set(values) == {-1.0, 1.0}
        assert abs(values.mean()) < 0.06
        return
    bounds = {"Cheetah": (0, 2), "AntVelocity": (0, 3), "AntGoal": (-3, 3), "Nav": (-0.5, 0.5)}
    low, high = next(pair for name, pair in bounds.items() if name in env_id)
    assert low <= values.min() < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < values.max() <= high
    narrow = gymnasium.make(env_id, task_range=(0.1, 0.2)).unwrapped.sample_tasks(9, rng)
    flat = np.ravel([next(iter(task.values())) for task in narrow])
    assert ((flat >= 0.1) & (flat <= 0.2)).all()


@pytest.mark.parametrize("env_id", IDS)
def test_observe_task_appends_the_task(env_id: str) -> None:
    plain = gymnasium.make_vec(env_id, num_envs=3)
    oracle = gymnasium.make_vec(env_id, num_envs=3, observe_task=True)
    tasks = plain.unwrapped.sample_tasks(3, np.random.default_rng(0))
    for envs in (plain, oracle):
        envs.set_attr("task", tasks)
    values = np.array([np.ravel(next(iter(task.values()))) for task in tasks], dtype=np.float32)
    shown = oracle.reset(seed=0)[0]
    assert np.array_equal(shown, np.concatenate((plain.reset(seed=0)[0], values), axis=1))
    assert shown.shape == oracle.observation_space.shape


@pytest.mark.parametrize("physics", ["paper", "gym"])
@pytest.mark.parametrize("env_id", list(WORLDS))
def test_observations_say_nothing_of_the_task(env_id: str, physics: str) -> None:
    pair = [gymnasium.make_vec(env_id, num_envs=4, physics=physics, threads=1) for _ in range(2)]
    drawn = pair[0].unwrapped.sample_tasks(8, np.random.default_rng(3))  # type: ignore[attr-defined]
    if "Direction" in env_id:
        drawn = [{"direction": x} for x in (1.0, -1.0) for _ in range(4)]
    for envs, own in zip(pair, (drawn[:4], drawn[4:]), strict=True):
        envs.set_attr("task", own)
    rng, live = np.random.default_rng(0), np.ones(4, dtype=bool)
    assert np.array_equal(*(envs.reset(seed=1)[0] for envs in pair))
    for _ in range(12):
        actions = rng.uniform(-1, 1, pair[0].action_space.shape)
        one, other = (envs.step(actions) for envs in pair)
        assert np.array_equal(one[0][live], other[0][live])
        assert (one[1] != other[1])[live].any()
        live &= ~(one[2] | other[2])
    assert live.any()


@pytest.mark.parametrize("physics", ["paper", "gym"])
@pytest.mark.parametrize("env_id", [x for x in WORLDS if "Navigation" not in x])
def test_control_costs_recomputed(env_id: str, physics: str) -> None:
    envs = gymnasium.make_vec(env_id, num_envs=6, physics=physics, threads=1)
    envs.reset(seed=0)
    weight = 0.05 if "Cheetah" in env_id else 0.005
    for t in range(5):
        actions = np.random.default_rng(t).uniform(-1.5, 1.5, envs.action_space.shape)
        *_, terminated, truncated, infos = envs.step(actions)
        cost = -weight * (np.clip(actions, -1, 1) ** 2).sum(1)
        assert np.abs(infos["reward_ctrl"] - cost)[~(terminated | truncated)].max() < 1e-12
