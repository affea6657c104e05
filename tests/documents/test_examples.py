"""The examples of docs/examples, each run as its reader would, only shorter."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import succeed

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
# Examples that need what the tests do not install.
ELSEWHERE = {"meta_world.py"}


def run(name: str, *argv: str) -> list[str]:
    """Lines that an example prints."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_example_is_run() -> None:
    here = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert path.name in ELSEWHERE or f'"{path.name}"' in here or f"{path.stem}:" in here


def test_training_loop(tmp_path: Path) -> None:
    out = tmp_path / "theta.npz"
    sizes = ("--meta-batch=3", "--episodes=4", "--horizon=10")
    lines = run("training_loop.py", "--iterations=2", *sizes, f"--out={out}")
    assert len(lines) == 3
    assert len(lines[-1].split(":")[1].split()) == 3
    with np.load(out, allow_pickle=False) as file:
        assert file["log_std"].shape == (2,)


def test_meta_policy_of_the_training_loop(tmp_path: Path, monkeypatch: Any) -> None:
    """It is the trained one, and adapts as it was trained to."""
    argv = ["--iterations=1", "--meta-batch=3", "--episodes=4", "--horizon=10", "--discount=0.5"]
    monkeypatch.setattr(sys, "argv", ["training_loop.py", *argv, f"--out={tmp_path / 'theta.npz'}"])
    made = runpy.run_path(str(EXAMPLES / "training_loop.py"))
    metapolicy = made["metapolicy"]
    assert metapolicy.weighting.discount == 0.5
    acts = metapolicy.module.state_dict()
    assert acts.keys() == made["theta"].keys()
    assert all(torch.equal(acts[name], p) for name, p in made["theta"].items())


def test_own_model() -> None:
    lines = run("own_model.py", "--iterations=60")
    curve = [float(x) for x in lines[-1].split(":")[1].split()]
    assert len(curve) == 4
    assert curve[-1] < curve[0]


@pytest.mark.parametrize("name", ["Room", "Corridor"])
def test_own_environment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setattr(sys, "path", [*sys.path])
    succeed("check", f"own_environment:{name}-v0")
    tiny = ("--iterations=2", "--meta-batch=3", "--episodes=4", "--hidden", "8", "--compile=off")
    tiny += ("--validation-tasks=2", "--env.horizon=10", f"--out={tmp_path / 'run'}")
    succeed("train", "maml", f"--env.id=own_environment:{name}-v0", *tiny)
    assert "passes" in capfd.readouterr().out


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_fine_tuning_in_stable_baselines(tmp_path: Path, activation: str) -> None:
    pytest.importorskip("stable_baselines3")
    tiny = ("--iterations=1", "--meta-batch=2", "--episodes=3", "--hidden", "8", "6")
    tiny += ("--compile=off", "--validation-tasks=2", f"--out={tmp_path / 'run'}")
    succeed("train", "navigation", f"--activation={activation}", *tiny)
    lines = run("fine_tune_sb3.py", str(tmp_path / "run"), "--steps=2000", "--episodes=3")
    assert [line.split(":")[0].split()[0] for line in lines] == [
        "task",
        "before",
        "adapted",
        "fine-tuned",
    ]
