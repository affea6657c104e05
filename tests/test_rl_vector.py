"""Environments without tasks: refused in one line, before there is a run."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from commands import refuse
from gymnasium.vector import VectorEnv

from metarl.errors import InputError
from metarl.rl import vector

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


def test_an_environment_without_a_name_is_called_by_its_class() -> None:
    class Own(VectorEnv[int, int, int]):
        pass

    with pytest.raises(InputError, match="Own has no method sample_tasks"):
        vector.sample_tasks(Own(), 1, np.random.default_rng(0), timeout=60)
