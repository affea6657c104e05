"""Pictures, with a display or without."""

from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from metarl_envs import WORLDS
from metarl_envs.single import TaskEnv


def drawn(env_id: str) -> tuple[Any, Any]:
    """An environment at its start, and its picture; skips where no backend loads."""
    env = gymnasium.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    try:
        return env, env.render()
    except RuntimeError as error:
        if "no OpenGL backend loads" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("env_id", list(WORLDS))
def test_rgb_array(env_id: str) -> None:
    env, first = drawn(env_id)
    assert isinstance(first, np.ndarray)
    assert first.dtype == np.uint8
    assert first.ndim == 3
    assert first.shape[2] == 3
    assert first.std() > 5
    high = env.action_space.high
    for _ in range(20):
        env.step(high)
    assert not np.array_equal(env.render(), first)
    env.close()


@pytest.mark.parametrize("env_id", list(WORLDS))
def test_gymnasiums_checker_takes_the_pictures(
    env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, picture = drawn(env_id)
    check_env(env.unwrapped)  # warnings are errors here
    # Mutant: pictures of numbers that are no bytes.
    monkeypatch.setattr(TaskEnv, "render", lambda _: picture / 255)
    with pytest.raises(UserWarning, match="uint8"):
        check_env(env.unwrapped)
    env.close()


def test_batch_renders_every_row() -> None:
    envs = gymnasium.make_vec("metarl/Navigation2D-v0", num_envs=3, render_mode="rgb_array")
    assert envs.render() is None
    envs.reset(seed=0)
    assert len(envs.render()) == 3
    assert gymnasium.make_vec("metarl/Navigation2D-v0", num_envs=3).render() is None


def test_a_backend_that_loads_and_cannot_draw_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_display(*_: object) -> None:
        raise mujoco.FatalError("a valid OpenGL context has not been created")

    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(mujoco, "MjrContext", no_display)
    env = gymnasium.make("metarl/HalfCheetahVelocity-v0", render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"install EGL, or OSMesa .*: "):
        env.render()
    env.close()


def test_closing_one_leaves_the_pictures_of_another() -> None:
    one, first = drawn("metarl/HalfCheetahVelocity-v0")
    other, _ = drawn("metarl/HalfCheetahVelocity-v0")
    other.close()
    assert np.array_equal(one.render(), first)
    one.close()
