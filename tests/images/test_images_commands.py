"""The commands on an image run: what is recorded, and what works where the data set is not."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import SMALL, refuse, succeed
from images_data import glyphs, write_archives
from workloads import glyphs_for_images

from metarl.images import ImageClasses, load_omniglot
from metarl_experiments.plots import images

TINY = [*SMALL[:1], *SMALL[2:], "--iterations=100", "--net=dense", "--patience=20"]


@contextlib.contextmanager
def glyphs_at_hand() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        glyphs_for_images(patch)
        yield


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run on glyphs with a step size of zero: the first validation is the best."""
    run = tmp_path / "run"
    with glyphs_at_hand():
        succeed("train", "omniglot", f"--out={run}", "--lr=0", *TINY)
        succeed("evaluate", str(run), "--tasks=8")
    return run


def test_early_stopping_is_recorded_and_told(stopped: Path) -> None:
    lines = (stopped / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["iteration"] == 30
    evaluation = json.loads((stopped / "evaluation-tasks-8.json").read_text())
    assert evaluation["iteration"] == 10
    assert evaluation["variants"]["trained_iterations"] == 30
    with glyphs_at_hand():
        succeed("report", str(stopped), "--tasks=8")
    page = (stopped / "report-tasks-8" / "index.html").read_text()
    assert "30 of 100 iterations; it ends where validation has not improved for 20" in page
    assert (stopped / "report-tasks-8" / "episodes.png").stat().st_size > 10_000


def test_only_new_episodes_need_the_data_set(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("METARL_DATA", raising=False)
    succeed("report", str(stopped), "--tasks=8")
    drawn = {path.name for path in (stopped / "report-tasks-8").glob("*.png")}
    assert "adaptation.png" in drawn
    assert "episodes.png" not in drawn
    before = sorted(stopped.rglob("*"))
    line = refuse(capfd, 2, "evaluate", str(stopped))
    assert "--data DIR" in line
    assert "metarl download omniglot" in line
    line = refuse(capfd, 2, "evaluate", str(stopped), f"--data={stopped}")
    assert "metarl download omniglot" in line
    line = refuse(capfd, 2, "train", "omniglot", f"--out={stopped}-2")
    assert "metarl download omniglot" in line
    assert not Path(f"{stopped}-2").exists()
    assert sorted(stopped.rglob("*")) == before


def test_damaged_archive_ends_before_anything_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = {"images_background": 3, "images_evaluation": 2}

    def load(root: str) -> ImageClasses:
        load_omniglot(root, parts=parts, cache=tmp_path / "cache")
        return glyphs(1623)

    monkeypatch.setattr("metarl_experiments.images.tasks.load_omniglot", load)
    archive = write_archives(tmp_path / "data", parts)[1]
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    argv = ["train", "omniglot", f"--out={tmp_path / 'run'}", f"--data={tmp_path / 'data'}", *TINY]
    assert "images_evaluation.zip" in refuse(capfd, 2, *argv)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    archive.write_bytes(whole)
    succeed(*argv)
    # The data may move.
    (tmp_path / "data").rename(tmp_path / "moved")
    run, moved = tmp_path / "run", f"--data={tmp_path / 'moved'}"
    for command in (["evaluate"], ["report"]):
        assert "metarl download" in refuse(capfd, 2, *command, str(run))
        succeed(*command, str(run), moved)
        (run / "evaluation.json").unlink()
    assert (run / "report" / "episodes.png").exists()
    more = ["--resume", "--iterations=101"]
    assert "metarl download" in refuse(capfd, 2, *argv[:3], *more)
    succeed(*argv[:3], *more, moved)


def test_mini_imagenet_trains_and_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("METARL_DATA", raising=False)
    run = str(tmp_path / "run")
    argv = ["train", "mini-imagenet", f"--out={run}", *SMALL]
    assert "image-net.org" in refuse(capfd, 2, *argv)

    def load(root: Path, split: str) -> ImageClasses:
        classes = {"train": 64, "validation": 16, "test": 20}[split]
        rng = np.random.default_rng(classes)
        images = rng.integers(0, 256, (classes, 17, 3, 84, 84), dtype=np.uint8)
        return ImageClasses(images, tuple(map(str, range(classes))))

    monkeypatch.setattr("metarl_experiments.images.tasks.load_mini_imagenet", load)
    monkeypatch.setenv("METARL_DATA", "there")
    assert "mini-imagenet has 16 validation" in refuse(capfd, 2, *argv, "--ways=17")
    assert list(tmp_path.iterdir()) == []
    succeed(*argv, "--ways=2", "--inner-steps=1")
    succeed("evaluate", run, "--tasks=2", "--steps=1")
    succeed("report", run, "--tasks=2", "--steps=1")
    assert (tmp_path / "run" / "report-tasks-2-steps-1" / "episodes.png").exists()


def test_of_runs_that_ended_early_those_without_patience_are_told() -> None:
    def run(best: int, done: int) -> Any:
        config = {"config": {"patience": 20, "iterations": 100}}
        record = SimpleNamespace(
            config=config,
            metrics=[{"iteration": done}],
            snapshot=SimpleNamespace(iteration=best),
            path=Path("seed-0"),
        )
        return SimpleNamespace(record=record)

    ((_, told),) = images.notes([run(10, 30), run(10, 29), run(90, 100)])
    assert told.count("\n") == 0
    assert told.startswith("seed-0: 30 of 100 iterations")
