"""Diverged physics: flagged, not paid, its neighbours untouched, and nothing printed."""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

import metarl_envs
from metarl_envs.models import load_cheetah
from metarl_envs.physics import Physics

ROWS = 16
VALUES = (1e9, 1e12, np.inf, np.nan)
# Backwards pays for running backwards, which a reset would look like.
DIRECTIONS: dict[str, dict[str, Any]] = {
    "metarl/HalfCheetahDirection-v0": {"direction": -1.0},
    "metarl/AntDirection-v0": {"direction": -1.0},
}
OTHERS: dict[str, dict[str, Any]] = {
    "metarl/HalfCheetahVelocity-v0": {"velocity": 1.5},
    "metarl/AntVelocity-v0": {"velocity": 2.0},
    "metarl/AntGoal-v0": {"goal": np.array([1.0, -2.0])},
}
TASKS = {**DIRECTIONS, **OTHERS}


def build(env_id: str, physics: str) -> Any:
    envs = gymnasium.make_vec(env_id, num_envs=ROWS, physics=physics)
    envs.set_attr("task", [TASKS[env_id]] * ROWS)
    envs.reset(seed=0)
    return envs


def test_every_simulated_environment_is_diverged_here() -> None:
    assert set(TASKS) == {name for name in metarl_envs.WORLDS if "Navigation" not in name}


@pytest.mark.parametrize("physics", ["paper", "gym"])
@pytest.mark.parametrize(
    ("env_id", "value"),
    [*itertools.product(DIRECTIONS, VALUES), *((name, 1e12) for name in OTHERS)],
)
def test_one_diverged_environment_of_sixteen(
    env_id: str, physics: str, value: float, capfd: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    broken, sound = build(env_id, physics), build(env_id, physics)
    row = 5
    rng = np.random.default_rng(0)
    observation = np.empty(0)
    for t in range(6):
        actions = rng.uniform(-1, 1, broken.action_space.shape)
        if t == 2:
            before = observation[row].copy()
            broken.unwrapped._states[row, -4] = value
        observation, reward, terminated, truncated, infos = broken.step(actions)
        expected = sound.step(actions)
        others = np.arange(ROWS) != row
        for ours, theirs in zip(
            (observation, reward, terminated, truncated), expected, strict=False
        ):
            assert np.array_equal(ours[others], theirs[others])
        assert not infos["diverged"][others].any()
        for name, values in infos.items():
            assert np.array_equal(values[others], expected[4][name][others])
            assert np.isfinite(values).all()
        assert infos["diverged"][row] == (t >= 2)
        if t >= 2:
            assert truncated[row]
            assert not terminated[row]
            assert reward[row] == 0.0
            assert np.array_equal(observation[row], before)
    mask = ~others
    start, infos = broken.reset(seed=1, options={"reset_mask": mask})
    assert np.array_equal(start[row], sound.reset(seed=1)[0][row])
    assert not infos["diverged"].any()
    assert broken.step(np.zeros(broken.action_space.shape))[1][row] != 0.0
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
    assert os.listdir(tmp_path) == []


def test_finite_but_reset_simulation_is_seen(tmp_path: Path, monkeypatch: Any) -> None:
    """Mutant: a check for finiteness alone would pay for MuJoCo's silent restart."""
    monkeypatch.chdir(tmp_path)
    envs = build("metarl/HalfCheetahDirection-v0", "paper")
    physics = envs.unwrapped.world.physics
    states = envs.unwrapped._states.copy()
    states[3, 12] = 1e9
    monkeypatch.setattr(physics, "_diverged", lambda before, after: ~np.isfinite(after).all(axis=1))
    after, invalid = physics.step(states, np.zeros((ROWS, 6)))
    assert not invalid.any()
    assert np.abs(after[3, 1:]).max() < 10


def test_single_environment_flags_too() -> None:
    env = gymnasium.make("metarl/HalfCheetahVelocity-v0").unwrapped
    env.reset(seed=0)
    env._batch._states[0, 12] = 1e9
    _, reward, terminated, truncated, info = env.step(np.zeros(6))
    assert (reward, terminated, truncated, info["diverged"]) == (0.0, False, True, True)


def test_the_users_warning_handler_is_put_back() -> None:
    heard: list[str] = []
    before, mine = mujoco.get_mju_user_warning(), heard.append
    mujoco.set_mju_user_warning(mine)
    try:
        halves = [build("metarl/HalfCheetahDirection-v0", "paper") for _ in range(2)]
        halves[0].unwrapped._states[3, -1] = 1e12
        actions = np.zeros((ROWS, 6))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda envs: [envs.step(actions) for _ in range(50)], halves))
        assert mujoco.get_mju_user_warning() is mine
    finally:
        mujoco.set_mju_user_warning(before)
    assert heard == []


QUIET = """
import warnings; warnings.simplefilter("error")
import gymnasium, metarl_envs, numpy as np
for name in metarl_envs.WORLDS:
    for physics in ("paper", "gym"):
        envs = gymnasium.make_vec(name, num_envs=3, physics=physics)
        envs.reset(seed=0)
        if "Nav" not in name:
            envs.unwrapped._states[1, -1] = 1e12
        envs.step(np.zeros(envs.action_space.shape))
        envs.close()
"""


def test_nothing_of_mujoco_reaches_the_user(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUIET], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert os.listdir(tmp_path) == []


def test_what_the_last_substep_made_is_looked_at() -> None:
    """It comes back without a warning, and with the time it should have."""
    physics = Physics(load_cheetah(), 4, 5, 1)
    before = physics.states(np.zeros((4, 9)), np.zeros((4, 9)))
    after = before.copy()
    after[:, 0] += physics.duration
    after[1, 3], after[2, 3] = np.nan, 1e11
    assert physics._diverged(before, after).tolist() == [False, True, True, False]
