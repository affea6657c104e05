"""Environments without tasks, or deaf to them: refused in one line, before there is a run."""

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from commands import refuse
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from metarl import InnerLoop, InputError, expand_params, from_module
from metarl.rl import GaussianMLP, MetaPolicy, Sampler, vector

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
