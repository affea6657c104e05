"""Pictures, with a display or without."""

import gymnasium
import mujoco
import numpy as np
import pytest

from metarl_envs import WORLDS


@pytest.mark.parametrize("env_id", list(WORLDS))
def test_rgb_array(env_id: str) -> None:
    env = gymnasium.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    try:
        first = env.render()
    except RuntimeError as error:
        pytest.skip(str(error))
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
