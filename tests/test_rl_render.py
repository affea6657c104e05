"""Episodes with pictures of policies over discrete actions, and the noise that draws actions."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from commands import refuse, succeed
from numpy.typing import NDArray
from PIL import Image
from walkers import Walker

from metarl.rl.distributions import Categorical, Distribution, Gaussian, sample
from metarl.rl.noise import draw_noise
from metarl_experiments.episodes import learner_of, play
from metarl_experiments.evaluate import load

TINY = ("--compile=off", "--threads=1", "--hidden", "4", "--episodes=2", "--meta-batch=2")
TINY += ("--validation-tasks=2", "--iterations=1", "--env.horizon=9")


class PicturedWalker(Walker):
    """Random walk that shows its time as a shade of grey."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(discrete=True)
        self.render_mode = render_mode

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]
        return np.full((16, 16, 3), 20 * self.time, np.uint8)


gymnasium.register("PicturedChoice-v0", PicturedWalker)


def test_film_of_discrete_actions(tmp_path: Path, capsys: Any) -> None:
    run, out = tmp_path / "run", tmp_path / "film.gif"
    succeed("train", "maml", f"--out={run}", *TINY, "--env.id=PicturedChoice-v0")
    succeed("render", str(run), f"--out={out}", "--tasks=2", "--steps", "0", "1")
    with Image.open(out) as film:
        assert 2 <= getattr(film, "n_frames", 0) <= 10
    loaded = load(run)
    (row,) = play(loaded, [{"slope": 0.5}], (0, 1), seed=0, stride=1)
    for episode in row:
        assert 1 <= len(episode.returns) - 1 <= 9
        shades = [int(picture[0, 0, 0]) for picture in episode.pictures]
        assert shades == [20 * t for t in episode.times]
    assert isinstance(learner_of(loaded).policy(torch.zeros(1, 2)), Categorical)


def test_film_of_an_oracle_needs_step_0(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    succeed("train", "navigation", f"--out={run}", *TINY, "--inner-steps=0", "--observe-task")
    line = refuse(capfd, 2, "render", str(run), "--steps", "1", "3")
    assert "--steps 1 3" in line
    assert "add --steps 0" in line
    assert not (run / "video.gif").exists()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_is_of_the_kind_that_the_distribution_takes(dtype: Any) -> None:
    zeros = torch.zeros(2, 4)
    gaussian, categorical = Gaussian(zeros, zeros), Categorical(zeros)

    def drawn(like: Distribution) -> NDArray[Any]:
        return draw_noise(np.random.default_rng(0), like, 500, 3, dtype=dtype)

    normal, uniform = drawn(gaussian), drawn(categorical)
    assert normal.shape == (500, 3, 4)
    assert uniform.shape == (500, 3)
    assert normal.dtype == uniform.dtype == dtype
    assert normal.min() < -2
    assert 0 <= uniform.min() < uniform.max() < 1
    # The streams of recorded runs.
    rng = np.random.default_rng(0)
    assert np.array_equal(normal, rng.standard_normal((500, 3, 4), dtype=dtype))
    spread = Categorical(torch.zeros(500, 3, 4))
    actions = sample(spread, torch.from_numpy(uniform))
    assert actions.shape == (500, 3)
    assert actions.unique().tolist() == [0, 1, 2, 3]
