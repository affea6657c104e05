"""Paths that no file can have, and folders: refused in one line, and nothing is left behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from commands import SMALL, refuse, succeed, train_small

from metarl_experiments import outputs
from metarl_experiments.__main__ import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


WRITING = ["evaluate", "report", "render", "export"]


@pytest.mark.parametrize("name", ["n" * 300 + ".npz", "loop", "loop/x.npz", "a\0b", ""])
@pytest.mark.parametrize("command", WRITING)
def test_bad_outputs(
    run: Path, here: Path, command: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run.rglob("*"))
    line = refuse(capfd, 2, command, str(run), f"--out={name}")
    assert "--out" in line
    assert sorted(run.rglob("*")) == before
    assert [path.name for path in here.iterdir()] == ["loop"]


@pytest.mark.parametrize("name", ["n" * 300, "loop", "a\0b", "nowhere", "", "b[/c]"])
@pytest.mark.parametrize("command", WRITING)
def test_bad_runs(here: Path, command: str, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    out = ["--out=x.npz"] if command == "export" else []
    refuse(capfd, 2, command, name, *out)
    assert [path.name for path in here.iterdir()] == ["loop"]


def test_an_empty_out_of_a_bench(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "--out: is empty" in refuse(capfd, 2, "bench", "scale", "--out=")


def test_a_folder_that_may_not_be_entered(
    run: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path) -> bool:
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr(outputs.Path, "exists", refused)
    assert "Permission denied" in refuse(capfd, 2, "export", str(run), "--out=x.npz")


def test_brackets_in_a_name_are_no_markup(
    run: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "b[").mkdir()
    (here / "b[" / "c]").symlink_to(run)
    succeed("evaluate", "b[/c]", "--tasks=2")


def test_a_report_that_fails_leaves_no_folders(run: Path, here: Path) -> None:
    (here / "old").mkdir()
    (here / "run").symlink_to(run)
    (run / "evaluation.json").write_text("[]")
    try:
        assert main(["report", "run", "--out=old/a/b/c"]) == 2
    finally:
        (run / "evaluation.json").unlink()
    assert list((here / "old").iterdir()) == []


def test_a_path_that_the_output_cannot_spell(here: Path) -> None:
    command = [sys.executable, "-m", "metarl_experiments", "train", "sinusoid", *SMALL]
    done = subprocess.run(
        [*command, "--out=\u00e9 run"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\\xe9 run" in done.stdout
    assert list((here / "\u00e9 run" / "checkpoints").iterdir())


def test_training_inside_the_checkpoints_of_a_run(
    run: Path, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = run / "checkpoints" / "00000099"
    line = refuse(capfd, 2, "train", "sinusoid", f"--out={out}")
    assert "lies in the checkpoints of a run" in line
    assert not out.exists()


def test_an_evaluation_that_is_none_is_told_before_another_is_made(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = (train_small(here / name) for name in ("first", "second"))
    (second / "evaluation.json").write_text("[]")
    assert "second" in refuse(capfd, 2, "report", str(first), str(second))
    assert not (first / "evaluation.json").exists()


def test_figures_do_not_follow_the_users_own_file(
    run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed("report", str(run), "--out=one")
    with matplotlib.rc_context({"text.usetex": True, "axes.xmargin": 0.4, "savefig.bbox": "tight"}):
        succeed("report", str(run), "--out=two")
    for name in ("adaptation.png", "learning.png"):
        assert (here / "one" / name).read_bytes() == (here / "two" / name).read_bytes()


def test_what_was_not_trained_has_no_course(here: Path) -> None:
    out = here / "none"
    tiny = ["--iterations=0", "--compile=off", "--hidden=4", "--episodes=2", "--meta-batch=2"]
    tiny += ["--evaluation-episodes=2", "--validation-tasks=2", "--env.horizon=5"]
    succeed("train", "navigation", f"--out={out}", *tiny)
    succeed("report", str(out))
    assert not (out / "report" / "learning.png").exists()


@pytest.mark.parametrize("name", [".", "_hidden"])
def test_every_run_has_a_name_in_figures(run: Path, here: Path, name: str) -> None:
    shutil.copytree(run, here / "_hidden")
    os.chdir(here / "_hidden") if name == "." else None
    succeed("evaluate", name, "--tasks=3")
    succeed("evaluate", name)


def test_metrics_that_are_no_numbers(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = train_small(here / "run")
    lines = (out / "metrics.jsonl").read_text().splitlines()
    lines[0] = lines[0].replace('"loss_after": ', '"loss_after": "x", "y": ')
    (out / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert "line 1 is not a line of metrics (loss_after is no number)" in refuse(
        capfd, 2, "report", str(out)
    )
