"""`metarl check` end to end."""

import sys
from pathlib import Path

import pytest
from commands import refuse

from metarl_experiments.__main__ import main

MODULE = """
import gymnasium
import numpy as np


class Walk(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


gymnasium.register("Taskless-v0", Walk)
"""


def test_ours_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "metarl/Navigation2D-v0"]) == 0
    assert "passes" in capsys.readouterr().out


def test_environment_without_tasks_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taskless.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["check", "taskless:Taskless-v0"]) == 2
    assert "sample_tasks" in capsys.readouterr().out
    sys.modules.pop("taskless")


@pytest.mark.parametrize("name", ["metarl/Nowhere-v0", "no_such_package:X-v0", "metarl/Nav ation"])
def test_unknown_environment(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert name in refuse(capfd, 2, "check", name)


@pytest.mark.parametrize("name", ["Nothing-v0", "nowhere:Nothing-v0"])
def test_ones_own_is_named_by_its_module(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert "as package:id where" in refuse(capfd, 2, "check", name)


def test_nothing_to_check(capfd: pytest.CaptureFixture[str]) -> None:
    assert "ENVIRONMENT" in refuse(capfd, 2, "check")
