"""Episodes with pictures of policies over discrete actions, and the noise that draws actions."""

import gc
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from commands import refuse, succeed
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray
from PIL import Image
from walkers import Walker

import metarl
from metarl.errors import InputError
from metarl.rl.distributions import Categorical, Distribution, Gaussian, sample
from metarl.rl.noise import action_noise, draw_noise
from metarl.rl.rollout import empty_rollout
from metarl_experiments.commands import render
from metarl_experiments.configs.rl import EvaluateOptions
from metarl_experiments.evaluation.evaluate import load
from metarl_experiments.rl.cells import gauge_range, words
from metarl_experiments.rl.episodes import learner_of, play

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
    (row,) = play(loaded, [{"slope": 0.5}], (0, 1), EvaluateOptions(), seed=0, stride=1)
    for episode in row:
        assert 1 <= len(episode.returns) - 1 <= 9
        shades = [int(picture[0, 0, 0]) for picture in episode.pictures]
        assert shades == [20 * t for t in episode.times]
    assert isinstance(learner_of(loaded).policy(torch.zeros(1, 2)), Categorical)


def test_film_of_motion_that_is_told_now_and_then(
    choice: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    step = PicturedWalker.step

    def told(self: PicturedWalker, action: Any) -> Any:
        *rest, info = step(self, action)
        return *rest, {**info, "velocity": 1.0} | ({"position": [0.0, 1.0]} if rest[2] else {})

    monkeypatch.setattr(PicturedWalker, "step", told)
    ((episode,),) = play(load(choice), [{"slope": 0.5}], (0,), EvaluateOptions(), seed=0, stride=1)
    assert set(episode.motion) == {"velocity"}
    assert len(episode.motion["velocity"]) == len(episode.returns) - 1
    succeed("render", str(choice), f"--out={tmp_path / 'film.gif'}", "--tasks=1", "--steps=0")


def test_a_film_ends_where_the_physics_diverges(
    choice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverged(self: PicturedWalker, action: Any) -> Any:
        observation, _ = Walker.reset(self, seed=0)
        return observation, 1e9, False, False, {"diverged": True}

    monkeypatch.setattr(PicturedWalker, "step", diverged)
    loaded = load(choice)
    path = [metarl.expand_params(loaded.params, 1)]
    monkeypatch.setattr(
        learner_of(loaded), "adapt", lambda *_: SimpleNamespace(path=path)
    )  # which would refuse such episodes
    ((episode,),) = play(loaded, [{"slope": 0.5}], (0,), EvaluateOptions(), seed=0, stride=1)
    assert episode.returns.tolist() == [0.0, 0.0]


@pytest.fixture(scope="module")
def choice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("choice") / "run"
    succeed("train", "maml", f"--out={run}", *TINY, "--env.id=PicturedChoice-v0")
    return run


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (mujoco.FatalError("an OpenGL platform library has not been loaded"), "MUJOCO_GL=egl"),
        (ImportError("Cannot initialize a EGL device display."), "MUJOCO_GL=egl"),
        (AttributeError("'NoneType' object has no attribute 'glGetError'"), "MUJOCO_GL=egl"),
        (DependencyNotInstalled('run `pip install "x[y]"`'), 'pictures: run `pip install "x[y]"`'),
        (ImportError("No module named 'pygame'"), "pictures: No module named 'pygame'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    choice: Path,
    error: Exception,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def render(_: Any) -> None:
        raise error

    monkeypatch.setattr(PicturedWalker, "render", render)
    line = refuse(capfd, 2, "render", str(choice), f"--out={choice / 'film.gif'}", "--tasks=1")
    assert line.startswith("metarl render: no pictures: ")
    assert words in line
    assert ("MUJOCO_GL" in line) is ("MUJOCO_GL" in words)
    assert not (choice / "film.gif").exists()


def test_a_users_mistake_in_render_is_not_hidden(
    choice: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(_: Any) -> None:
        raise KeyError("angle")

    monkeypatch.setattr(PicturedWalker, "render", render)
    with pytest.raises(KeyError):
        play(load(choice), [{"slope": 0.5}], (0,), EvaluateOptions(), seed=0, stride=1)


def test_half_made_viewers_go_in_silence(choice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Viewer:
        def __init__(self) -> None:
            raise ImportError("no EGL")

        def __del__(self) -> None:
            raise AttributeError("opengl_context")

    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    monkeypatch.setattr(PicturedWalker, "render", lambda _: Viewer())
    with pytest.raises(InputError, match="no EGL"):
        play(load(choice), [{"slope": 0.5}], (0,), EvaluateOptions(), seed=0, stride=1)
    gc.collect()
    assert seen == []


def test_film_of_an_oracle_needs_step_0(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    succeed("train", "navigation", f"--out={run}", *TINY, "--inner-steps=0", "--observe-task")
    line = refuse(capfd, 2, "render", str(run), "--steps", "1", "3")
    assert "--steps 1 3" in line
    assert "add --steps 0" in line
    assert not (run / "video.gif").exists()


def test_tasks_of_a_film_are_chosen_as_those_of_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    succeed("train", "navigation", f"--out={run}", *TINY)

    def filmed(*options: str) -> Any:
        seen: list[Any] = []

        def stop(_: Any, tasks: Any, *__: Any, **___: Any) -> None:
            seen.extend(task["goal"].tolist() for task in tasks)
            raise InputError("seen")

        monkeypatch.setattr(render, "play", stop)
        refuse(capfd, 2, "render", str(run), "--tasks=2", *options)
        return seen

    paper, far = filmed(), filmed("--task-range", "3", "4")
    assert paper == filmed("--task-seed=paper") != filmed("--task-seed=0")
    assert len(paper) == len(far) == 2
    assert np.abs(paper).max() < 0.5
    assert np.min(far) > 3
    wide = ("--task-range", "3", "4")
    assert far == filmed("--task-seed=0", *wide) != filmed("--task-seed=1", *wide)
    line = refuse(capfd, 2, "render", str(run), "--task-seed=paper", "--task-range", "3", "4")
    assert "--task-range" in line


def test_noise_is_of_the_kind_that_the_distribution_takes() -> None:
    zeros = torch.zeros(2, 4)
    gaussian, categorical = Gaussian(zeros, zeros), Categorical(zeros)

    def drawn(like: Distribution) -> NDArray[Any]:
        return draw_noise(np.random.default_rng(0), like, 500, 3)

    normal, uniform = drawn(gaussian), drawn(categorical)
    assert normal.shape == (500, 3, 4)
    assert uniform.shape == (500, 3)
    assert normal.dtype == uniform.dtype == np.float32
    assert normal.min() < -2
    assert 0 <= uniform.min() < uniform.max() < 1
    # The streams of recorded runs.
    rng = np.random.default_rng(0)
    assert np.array_equal(normal, rng.standard_normal((500, 3, 4), dtype=np.float32))
    spread = Categorical(torch.zeros(500, 3, 4))
    actions = sample(spread, torch.from_numpy(uniform))
    assert actions.shape == (500, 3)
    assert actions.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"velocity": 1.5}, "goal 1.50"),
        ({"velocity": np.array([1.0, 0.5])}, "goal 1.00, 0.50"),
        ({"direction": 1}, "forwards"),
        ({"direction": -1.0}, "backwards"),
        ({"direction": 0.7}, "direction 0.70"),
        ({"direction": np.array([0.6, 0.8])}, "direction 0.60, 0.80"),
        ({"direction": "left"}, "direction left"),
        ({"goal": [0.5, 2]}, "goal 0.50, 2.00"),
        ({}, ""),
    ],
)
def test_tasks_of_ones_own_are_told_in_words(task: Any, told: str) -> None:
    assert words(task) == told
    low, high = gauge_range([], task)
    assert low <= -0.05
    assert (high > 1.5) == (told == "goal 1.50")


def test_rows_beyond_a_block_have_noise_of_their_own() -> None:
    """Workers must not share one stream; noise is drawn in blocks of 4096 rows."""
    like = Gaussian(torch.zeros(1, 2), torch.zeros(1, 2))
    whole = action_noise(3, empty_rollout(9000, 1, 1, like), 0)
    assert len(whole.flatten(1).unique(dim=0)) == 9000
    for first in (4090, 4096, 8190):
        part = action_noise(3, empty_rollout(12, 1, 1, like), first)
        assert torch.equal(part, whole[first : first + 12])
