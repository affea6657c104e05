"""Episodes: how they start, run side by side, end and start again."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from metarl_envs import WORLDS
from metarl_envs.ant_dynamics import AntDynamics
from metarl_envs.cheetah_dynamics import CheetahDynamics
from metarl_envs.starts import ROWS
from metarl_envs.world import Motion

IDS = list(WORLDS)
PHYSICS = ("paper", "gym")


def cheetahs(count: int) -> Any:
    return gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", num_envs=count)


def test_parts_of_a_batch_of_many_blocks_start_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draws the blocks that it lies in, and the first, which the others' key comes from."""
    drawn: list[int] = []
    start = CheetahDynamics.start

    def counted(world: Any, total: int, rng: np.random.Generator) -> Any:
        drawn.append(total)
        return start(world, total, rng)

    monkeypatch.setattr(CheetahDynamics, "start", counted)
    total = 100 * ROWS + 7

    def begun(envs: Any, first: int, seed: int | None = 3) -> Any:
        drawn.clear()
        return envs.reset(seed=seed, options={"block": (first, total)})[0]

    whole = begun(cheetahs(3 * ROWS), 0)
    assert drawn == [ROWS] * 3
    assert len(np.unique(whole, axis=0)) == len(whole)
    for first in (0, ROWS - 5, ROWS, 2 * ROWS + 11):
        assert np.array_equal(begun(cheetahs(40), first), whole[first : first + 40])
    begun(cheetahs(40), total - 47)
    assert drawn == [ROWS, ROWS]
    # Without a seed all parts go on alike, wherever they were before.
    one, other = cheetahs(40), cheetahs(40)
    before = begun(one, 50 * ROWS)
    begun(other, 0)
    after = [begun(envs, 50 * ROWS, None) for envs in (one, other)]
    assert np.array_equal(*after)
    assert not np.array_equal(before, after[0])


@pytest.mark.parametrize("physics", PHYSICS)
@pytest.mark.parametrize("env_id", IDS)
def test_rows_do_not_depend_on_batch_block_or_threads(env_id: str, physics: str) -> None:
    """Bit equality of the whole batch, of its two halves, of single rows, on 1 to 4 threads."""
    rng = np.random.default_rng(0)
    whole = gymnasium.make_vec(env_id, num_envs=6, physics=physics, threads=1)
    tasks = whole.unwrapped.sample_tasks(6, rng)
    shape = whole.single_action_space.shape
    actions = rng.uniform(-1, 1, (12, 6, *shape)) * whole.single_action_space.high

    def run(rows: slice, threads: int) -> list[Any]:
        n = rows.stop - rows.start
        envs = gymnasium.make_vec(env_id, num_envs=n, physics=physics, threads=threads)
        envs.set_attr("task", tasks[rows])
        record = [envs.reset(seed=4, options={"block": (rows.start, 6)})[0]]
        for action in actions:
            *step, infos = envs.step(action[rows])
            record += [*step, *(infos[name] for name in sorted(infos))]
        envs.close()
        return record

    expected = run(slice(0, 6), 1)
    for threads in (2, 4):
        for got, want in zip(run(slice(0, 6), threads), expected, strict=True):
            assert np.array_equal(got, want)
    for rows in (slice(0, 3), slice(3, 6)):
        for got, want in zip(run(rows, 2), expected, strict=True):
            assert np.array_equal(got, want[rows])

    single = gymnasium.make(env_id, physics=physics)
    single.set_wrapper_attr("task", tasks[4])
    observation, _ = single.reset(seed=4, options={"block": (4, 6)})
    assert np.array_equal(observation, expected[0][4])
    width = (len(expected) - 1) // len(actions)
    for t, action in enumerate(actions):
        *step, infos = single.step(action[4])
        got = [*step, *(infos[name] for name in sorted(infos))]
        want = [values[4] for values in expected[1 + t * width : 1 + (t + 1) * width]]
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))
        if step[2] or step[3]:
            break


@pytest.mark.parametrize("env_id", IDS)
def test_reset_leaves_nothing_of_the_last_episode(env_id: str) -> None:
    used = gymnasium.make_vec(env_id, num_envs=4, horizon=15)
    fresh = gymnasium.make_vec(env_id, num_envs=4, horizon=15)
    used.reset(seed=0)
    tasks = used.unwrapped.task
    actions = [used.action_space.sample() for _ in range(15)]
    for action in actions:
        used.step(action)
    fresh.set_attr("task", tasks)
    assert np.array_equal(used.reset(seed=3)[0], fresh.reset(seed=3)[0])
    for action in actions:
        for ours, theirs in zip(used.step(action)[:4], fresh.step(action)[:4], strict=True):
            assert np.array_equal(ours, theirs)


def test_partial_reset_and_ended_episodes() -> None:
    envs = gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", num_envs=4, horizon=5)
    assert envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    with pytest.raises(ResetNeeded):
        envs.step(envs.action_space.sample())
    envs.reset(seed=0)
    for _ in range(5):
        final, reward, terminated, truncated, last = envs.step(envs.action_space.sample())
    assert truncated.all()
    assert not terminated.any()
    assert reward.all()
    still, reward, _, truncated, infos = envs.step(envs.action_space.sample())
    assert np.array_equal(still, final)
    assert not reward.any()
    assert truncated.all()
    assert not infos["velocity"].any()
    assert infos["velocity"].dtype == last["velocity"].dtype
    assert last["position"].all()
    assert np.array_equal(infos["position"], last["position"])
    mask = np.array([True, False, True, False])
    again, _ = envs.reset(seed=8, options={"reset_mask": mask})
    assert np.array_equal(again[~mask], final[~mask])
    assert np.array_equal(again[mask], envs.reset(seed=8)[0][mask])
    envs.reset(seed=8)
    envs.step(envs.action_space.sample())
    envs.reset(options={"reset_mask": mask})
    for _ in range(4):
        truncated = envs.step(envs.action_space.sample())[3]
    assert np.array_equal(truncated, ~mask)


def test_ant_ends_outside_its_heights_and_stays() -> None:
    envs = gymnasium.make_vec("metarl/AntDirection-v0", num_envs=3)
    envs.reset(seed=0)
    envs.unwrapped._states[0, 3] = 1.2
    envs.unwrapped._states[1, 3] = 0.1
    observation, reward, terminated, truncated, infos = envs.step(np.zeros((3, 8)))
    assert terminated.tolist() == [True, True, False]
    assert not truncated.any()
    assert infos["reward_survive"].all()
    after, reward, terminated, _, later = envs.step(np.ones((3, 8)))
    assert np.array_equal(after[:2], observation[:2])
    assert np.array_equal(later["position"][:2], infos["position"][:2])
    assert (later["position"][2] != infos["position"][2]).all()
    assert terminated.tolist() == [True, True, False]
    assert (reward[:2] == 0).all()
    assert reward[2] != 0


def heights_that_end(world: AntDynamics) -> list[float]:
    """Those of some heights of the torso, in metres, at which an episode ends."""
    heights = [-1.0, 0.0, 0.199, 0.201, 0.55, 0.999, 1.001, 3.0]
    states = world.physics.states(
        np.tile(world.model.qpos0, (len(heights), 1)), np.zeros((len(heights), world.model.nv))
    )
    states[:, 3] = heights
    none = np.zeros(len(heights))
    motion = Motion(states, world.observe(states), none, none, {}, none.astype(bool))
    ends = world.terminated(motion, none)
    return [height for height, end in zip(heights, ends, strict=True) if end]


@pytest.mark.parametrize("physics", PHYSICS)
@pytest.mark.parametrize("env_id", [name for name in IDS if "Ant" in name])
def test_ant_ends_below_a_fifth_of_a_metre_and_above_one(
    env_id: str, physics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = gymnasium.make_vec(env_id, num_envs=8, physics=physics).unwrapped.world
    assert heights_that_end(world) == [-1.0, 0.0, 0.199, 1.001, 3.0]
    # Mutant: another limit.
    monkeypatch.setattr("metarl_envs.ant_dynamics._HEALTHY", (0.26, 1.0))
    assert heights_that_end(world) == [-1.0, 0.0, 0.199, 0.201, 1.001, 3.0]


def start_noise(physics: str) -> tuple[np.ndarray, np.ndarray]:
    """Of 500 starts of the cheetah: positions beside the pose, and velocities."""
    envs = gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", num_envs=500, physics=physics)
    envs.reset(seed=0)
    model, states = envs.unwrapped.world.model, envs.unwrapped._states
    return states[:, 1 : 1 + model.nq] - model.qpos0, states[:, 1 + model.nq :]


def is_normal(values: np.ndarray, deviation: float) -> bool:
    """Whether each column has mean zero and this deviation, with the tails of a normal."""
    scaled = values / deviation
    within = np.abs(scaled.mean(0)).max() < 5 / 500**0.5
    within &= np.abs(scaled.std(0) - 1).max() < 5 / 1000**0.5
    return bool(within and 0.003 < (np.abs(scaled) > 2.5).mean() < 0.03)


def test_cheetah_starts_with_the_papers_noise() -> None:
    position, velocity = start_noise("paper")
    assert is_normal(position, 0.01)
    assert is_normal(velocity, 0.1)
    # Mutants: the two exchanged, a fifth more, and gymnasium's noise.
    assert not is_normal(position, 0.1)
    assert not is_normal(velocity, 0.01)
    assert not is_normal(1.2 * velocity, 0.1)
    assert not is_normal(start_noise("gym")[0], 0.01)


def test_ant_starts_crouching_with_a_unit_quaternion() -> None:
    envs = gymnasium.make_vec("metarl/AntVelocity-v0", num_envs=500)
    observations, _ = envs.reset(seed=0)
    mean = observations[:, :15].mean(axis=0)
    legs = [0, 1, 0, -1, 0, -1, 0, 1]
    assert np.abs(mean - [0, 0, 0.55, 1, 0, 0, 0, *legs]).max() < 3e-3
    assert abs(observations[:, 0].std() - 0.01) < 2e-3
    assert abs(observations[:, 15:29].std() - 0.1) < 5e-3
    assert np.abs(np.linalg.norm(observations[:, 3:7], axis=1) - 1).max() < 1e-6
    # Every coordinate has noise of its own; of the quaternion, what is normalised away is lost.
    free = [0, 1, 2, 4, 5, 6, *range(7, 15)]
    assert is_normal(observations[:, free] - mean[free], 0.01)
    assert is_normal(observations[:, 15:29], 0.1)
    together = np.corrcoef(observations[:, [*free, *range(15, 29)]].T) - np.eye(len(free) + 14)
    assert np.abs(together).max() < 5 / 500**0.5


HORIZONS = {
    "metarl/Navigation2D-v0": 100,
    "metarl/HalfCheetahVelocity-v0": 200,
    "metarl/HalfCheetahDirection-v0": 200,
    "metarl/AntVelocity-v0": 200,
    "metarl/AntDirection-v0": 200,
    "metarl/AntGoal-v0": 200,
}


@pytest.mark.parametrize("env_id", IDS)
def test_episodes_are_as_long_as_the_card_says(env_id: str) -> None:
    envs = gymnasium.make_vec(env_id, num_envs=1)
    assert envs.unwrapped.horizon == HORIZONS[env_id]


def test_navigations_radii() -> None:
    """Done within 0.01 in each coordinate, paid within 0.2."""

    def stand(sparse: bool, *goals: tuple[float, float]) -> Any:
        envs = gymnasium.make_vec("metarl/Navigation2D-v0", num_envs=len(goals), sparse=sparse)
        envs.set_attr("task", [{"goal": np.array(goal)} for goal in goals])
        envs.reset()
        return envs.step(np.zeros((len(goals), 2)))

    near, far = 0.0099, 0.0101
    _, _, ended, *_ = stand(False, (near, near), (near, far), (-far, near), (-near, -near))
    assert ended.tolist() == [True, False, False, True]
    _, reward, *_ = stand(True, (0.199, 0.0), (0.0, -0.201), (0.15, 0.15))
    assert reward == pytest.approx([0.001, 0.0, 0.0], abs=1e-12)


def test_navigation_ends_at_its_goal_and_sparse_reward() -> None:
    envs = gymnasium.make_vec("metarl/Navigation2D-v0", num_envs=2, sparse=True)
    envs.set_attr("task", [{"goal": np.array([0.25, 0.0])}, {"goal": np.array([0.5, 0.0])}])
    envs.reset()
    right = np.array([[0.3, 0.0]] * 2)  # clipped to 0.1
    _, reward, terminated, _, _ = envs.step(right)
    assert reward == pytest.approx([0.05, 0.0], abs=1e-12)
    _, reward, terminated, _, _ = envs.step(right)
    assert reward == pytest.approx([0.15, 0.0], abs=1e-12)
    _, reward, terminated, _, _ = envs.step(np.array([[0.045, 0.009], [0.0, 0.0]]))
    assert reward[0] == pytest.approx(0.2 - np.hypot(0.005, 0.009))
    assert terminated.tolist() == [True, False]


@pytest.mark.parametrize(
    "wrong",
    [
        {"physics": "real"},
        {"horizon": 0},
        {"horizon": 2.5},
        {"threads": 0},
        {"render_mode": "human"},
        {"task_range": (2, 1)},
        {"task_range": (0, float("nan"))},
        {"task_range": (0, 1, 2)},
    ],
)
def test_wrong_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", num_envs=2, **wrong)


def test_wrong_calls() -> None:
    envs = gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", num_envs=3)
    envs.reset(seed=0)
    actions = np.zeros((3, 6), dtype=np.float32)
    actions[1, 2] = np.nan
    with pytest.raises(ValueError, match="environment 1 is not finite"):
        envs.step(actions)
    with pytest.raises(ValueError, match="shape"):
        envs.step(actions[:2])
    with pytest.raises(ValueError, match="unknown reset options"):
        envs.reset(options={"rest_mask": 1})
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": np.ones(2, dtype=bool)})
    with pytest.raises(ValueError, match="block"):
        envs.reset(options={"block": (1, 3)})
    with pytest.raises(ValueError, match="two directions"):
        gymnasium.make("metarl/AntDirection-v0", task_range=(0, 1))


def test_registered_by_module_prefix() -> None:
    env = gymnasium.make("metarl_envs:metarl/HalfCheetahVelocity-v0", horizon=7)
    assert env.unwrapped.observation_space.shape == (20,)
    env.reset()
    ends = [env.step(env.action_space.sample())[3] for _ in range(7)]
    assert ends == [False] * 6 + [True]


@pytest.mark.parametrize("physics", PHYSICS)
@pytest.mark.parametrize("env_id", IDS)
def test_returned_arrays_belong_to_the_caller(env_id: str, physics: str) -> None:
    """What was returned is not overwritten later, and overwriting it changes nothing."""
    twins = [gymnasium.make_vec(env_id, num_envs=3, physics=physics, horizon=4) for _ in range(2)]
    kept: list[tuple[Any, Any]] = []
    for envs in twins:
        envs.reset(seed=0)
    for t in range(6):
        actions = np.full(twins[0].action_space.shape, 0.01 * t)
        (*step, infos), (*other, _) = (envs.step(actions) for envs in twins)
        for ours, theirs in zip(step, other, strict=True):
            assert np.array_equal(ours, theirs)
        kept += [(values, values.copy()) for values in (*step, *infos.values())]
        for values in other:
            values[...] = 1
    assert all(np.array_equal(values, copied) for values, copied in kept)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasiums_own_vector_environments_take_ours(mode: str) -> None:
    envs = gymnasium.make_vec(
        "metarl/HalfCheetahVelocity-v0",
        num_envs=2,
        vectorization_mode=mode,
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
        horizon=3,
    )
    tasks = [{"velocity": 0.5}, {"velocity": 1.5}]
    envs.set_attr("task", tasks)
    start, _ = envs.reset(seed=[4, 5])
    assert list(envs.get_attr("task")) == tasks
    single = gymnasium.make("metarl/HalfCheetahVelocity-v0", horizon=3)
    single.set_wrapper_attr("task", tasks[1])
    assert np.array_equal(start[1], single.reset(seed=5)[0])
    for _ in range(3):
        action = envs.action_space.sample()
        observations, rewards, _, truncated, infos = envs.step(action)
        observation, reward, *_ = single.step(action[1])
        assert np.array_equal(observations[1], observation)
        assert rewards[1] == reward
        assert not infos["diverged"].any()
    assert truncated.all()
    envs.close()
