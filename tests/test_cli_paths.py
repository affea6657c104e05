"""Paths that no file can have, and folders: refused in one line, and nothing is left behind."""

import os
from pathlib import Path

import pytest
from commands import refuse, succeed, train_small

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
