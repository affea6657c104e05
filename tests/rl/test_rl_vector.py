"""Environments without tasks, or deaf to them: refused in one line, before there is a run."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from commands import refuse
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from walkers import Walker

from metarl import InnerLoop, InputError, expand_params, from_module
from metarl.errors import WorkerError
from metarl.rl import GaussianMLP, MetaPolicy, Sampler, vector
from metarl.rl.workers import receiving

# Forking a process with threads warns from Python 3.12 on; the workers use no torch.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@forks
@pytest.mark.parametrize("workers", [0, 2])
def test_training_without_tasks_creates_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    out = tmp_path / "run"
    options = ["--env.id=CartPole-v1", f"--env.workers={workers}", "--compile=off"]
    line = refuse(capfd, 2, "train", "maml", f"--out={out}", *options)
    assert "CartPole-v1 has no method sample_tasks(n, rng)" in line
    assert "docs/writing.md" in line
    assert list(tmp_path.iterdir()) == []


@forks
@pytest.mark.parametrize("mode", ["sync", "async", "vector_entry_point"])
def test_environments_without_tasks_are_named(mode: str) -> None:
    envs = gymnasium.make_vec("CartPole-v1", 2, mode)
    try:
        with pytest.raises(InputError, match="CartPole-v1 has no method sample_tasks"):
            vector.sample_tasks(envs, 1, np.random.default_rng(0), timeout=60)
    finally:
        envs.close()


class Deaf(gymnasium.Env[Any, Any]):
    """Has tasks, and another way to be given one."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    goal = 0.0

    @staticmethod
    def sample_tasks(n: int, rng: np.random.Generator) -> list[dict[str, float]]:
        return [{"goal": float(x)} for x in rng.uniform(-1, 1, n)]

    def set_task(self, task: dict[str, float]) -> None:
        self.goal = task["goal"]

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), -abs(self.goal), False, False, {}


@forks
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_task_that_nobody_reads_is_refused(mode: str) -> None:
    kinds: dict[str, Any] = {"sync": SyncVectorEnv, "async": AsyncVectorEnv}
    envs = kinds[mode]([Deaf, Deaf], autoreset_mode=AutoresetMode.DISABLED)
    try:
        sampler = Sampler(envs, episodes=1, horizon=2)
        sampler.set_tasks([{"goal": 1.0}, {"goal": 2.0}])
        policy = GaussianMLP(1, 1)
        theta = expand_params(from_module(policy)[0], 2)
        with pytest.raises(InputError, match="VectorEnv has no attribute task, so that all"):
            sampler.collect(policy, theta, seed=0)
    finally:
        envs.close()
    with pytest.raises(InputError, match="no attribute task"):
        MetaPolicy(from_module(policy)[0], policy, InnerLoop(), horizon=2).adapt(
            Deaf(), task={"goal": 3.0}, episodes=2
        )


def test_a_users_own_flag_ends_nothing() -> None:
    class Strict(Deaf):
        task: ClassVar[dict[str, float]] = {"goal": 0.0}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return np.zeros(1, np.float32), -10.0, False, False, {"invalid": True}

    envs = SyncVectorEnv([Strict], autoreset_mode=AutoresetMode.DISABLED)
    sampler = Sampler(envs, episodes=1, horizon=2)
    sampler.set_tasks([{"goal": 1.0}])
    policy = GaussianMLP(1, 1)
    rollout, counts = sampler.collect(policy, expand_params(from_module(policy)[0], 1), seed=0)
    assert counts.invalid_episodes == 0
    assert rollout.rewards.tolist() == [[[-10.0, -10.0]]]


def test_an_environment_without_a_name_is_called_by_its_class() -> None:
    class Own(VectorEnv[int, int, int]):
        pass

    with pytest.raises(InputError, match="Own has no method sample_tasks"):
        vector.sample_tasks(Own(), 1, np.random.default_rng(0), timeout=60)


class OwnRows(VectorEnv[Any, Any, Any]):
    """A batch of a user's own, by gymnasium's rules: it ends at time 1 in odd rows, else at 3."""

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.DISABLED}  # type: ignore[misc]
    single_observation_space = single_action_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    task: Any = None

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.times = np.zeros(num_envs, np.int64)

    def set_attr(self, name: str, values: Any) -> None:
        setattr(self, name, values)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        known = {"reset_mask": np.ones(self.num_envs, bool)} | (options or {})
        assert known.keys() == {"reset_mask"}, options
        self.times[known["reset_mask"]] = 0
        self.state = self.np_random.normal(size=(self.num_envs, 1)).astype(np.float32)
        return self.state, {}

    def step(self, actions: Any) -> Any:
        assert (self.times >= 0).all(), "a row that ended was stepped"
        self.times += 1
        ended = self.times >= np.where(np.arange(self.num_envs) % 2, 1, 3)
        self.times[ended] = -1
        return self.state, self.state[:, 0].astype(np.float64), ended, np.zeros_like(ended), {}


def collected(envs: Any, tasks: int, episodes: int) -> Any:
    sampler = Sampler(envs, episodes=episodes, horizon=3)
    sampler.set_tasks([{"slope": 1.0}] * tasks)
    policy = GaussianMLP(1, 1)
    return sampler.collect(policy, expand_params(from_module(policy)[0], tasks), seed=0)[0]


@pytest.mark.parametrize("sizes", [(4,), (4, 4)])
def test_rows_of_ones_own_batches_start_apart(sizes: tuple[int, ...]) -> None:
    rollout = collected([OwnRows(n) for n in sizes], 8, 2)
    assert len(rollout.observations[:, :, 0].unique()) == 16
    assert rollout.mask.sum(2).tolist() == [[3, 1]] * 8


def test_the_environments_own_word_on_resetting_counts() -> None:
    envs = SyncVectorEnv([WithTask], autoreset_mode=AutoresetMode.DISABLED)
    # As gymnasium below 1.4 leaves it, where metadata belong to the class and others were made.
    envs.metadata = {**envs.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
    Sampler(envs, episodes=1, horizon=1)
    envs = SyncVectorEnv([WithTask])
    envs.metadata = {**envs.metadata, "autoreset_mode": AutoresetMode.DISABLED}
    with pytest.raises(InputError, match="NEXT_STEP; build it"):
        Sampler(envs, episodes=1, horizon=1)


class WithTask(Deaf):
    task: ClassVar[dict[str, float]] = {"goal": 0.0}


def test_seeds_are_such_as_old_generators_take() -> None:
    class Old(WithTask):
        def reset(self, *, seed: Any = None, **_: Any) -> tuple[Any, dict[str, Any]]:
            start = np.random.RandomState(seed).uniform(-1, 1, 1)
            return start.astype(np.float32), {}

    rollout = collected(SyncVectorEnv([Old] * 6, autoreset_mode=AutoresetMode.DISABLED), 3, 2)
    assert len(rollout.observations[:, :, 0].unique()) == 6


def test_tasks_that_cannot_be_given_are_refused() -> None:
    class Closed(OwnRows):
        set_attr: Any = property()

    with pytest.raises(InputError, match="Closed has no method set_attr"):
        collected(Closed(2), 2, 1)


class Stuck(Walker):
    """Hangs in one of its methods once it has been reset."""

    armed = False
    where = ""

    def reset(self, **options: Any) -> Any:
        if self.where == "reset" and self.armed:
            time.sleep(60)
        self.armed = True
        return super().reset(**options)

    def sample_tasks(self, n: int, rng: np.random.Generator) -> Any:  # type: ignore[override]
        time.sleep(60 if self.where == "sample_tasks" else 0)
        return Walker.sample_tasks(n, rng)

    def __setattr__(self, name: str, value: Any) -> None:
        if self.where == name == "task" and self.armed:
            time.sleep(60)
        object.__setattr__(self, name, value)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("where", "doing"),
    [("reset", "resetting"), ("task", "setting tasks"), ("sample_tasks", "sampling tasks")],
)
def test_a_worker_that_hangs_in_another_method(
    where: str, doing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stuck, "where", where)
    envs = AsyncVectorEnv([Stuck] * 2, autoreset_mode=AutoresetMode.DISABLED)
    vector.reset(envs, seed=0, first=0, total=2, timeout=30)
    calls: dict[str, Callable[[], Any]] = {
        "reset": lambda: vector.reset(envs, seed=0, first=0, total=2, timeout=1),
        "task": lambda: vector.set_tasks(envs, [{"slope": 0.0}] * 2, timeout=1),
        "sample_tasks": lambda: vector.sample_tasks(envs, 1, np.random.default_rng(0), timeout=1),
    }
    began = time.monotonic()
    with pytest.raises(WorkerError, match=f"no answer within 1 s while {doing}"):
        calls[where]()
    assert time.monotonic() - began < 20
    assert not any(process.is_alive() for process in envs.processes)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_workers_end_with_what_gave_them_up() -> None:
    envs = AsyncVectorEnv([Walker] * 2, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(KeyboardInterrupt), receiving(envs, 1.0, "stepping"):
        raise KeyboardInterrupt
    assert not any(process.is_alive() for process in envs.processes)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_workers_outlive_an_error_of_the_environment() -> None:
    envs = AsyncVectorEnv([Walker] * 2, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ValueError, match="own"), receiving(envs, 1.0, "stepping"):
        raise ValueError("its own")
    assert all(process.is_alive() for process in envs.processes)
    envs.close()
