"""Pages of other protocols than the default, and of runs alone."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import refuse, succeed, train_small

from metarl.errors import InputError
from metarl_experiments.configs.rl import EvaluateOptions
from metarl_experiments.evaluation.evaluate import load
from metarl_experiments.plots.stills import stills

POINT = ("--compile=off", "--threads=1", "--hidden", "4", "--episodes=2", "--meta-batch=2")
POINT += ("--validation-tasks=2", "--evaluation-episodes=2", "--iterations=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def point(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "point"
    succeed("train", "navigation", f"--out={out}", *POINT)
    return out


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_page_of_another_protocol(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = ("--tasks=2", "--steps=4", "--shots=3")
    succeed("report", str(run), *protocol)
    told = json.loads((run / "evaluation-tasks-2-steps-4-shots-3.json").read_text())
    assert not (run / "evaluation.json").exists()
    assert not (run / "report").exists()
    page = run / "report-tasks-2-steps-4-shots-3"
    assert "<td>2 tasks, seed 0</td>" in (page / "index.html").read_text()
    drawn = rows_of(page / "adaptation.csv")
    assert {row["label"] for row in drawn} == {"run"}  # the paper's are of five points
    assert [float(row["loss"]) for row in drawn] == told["mean"]
    assert [row["steps"] for row in drawn] == list("01234")
    fits = rows_of(page / "fits.csv")
    assert {row["task"] for row in fits} == {"0", "1"}

    def work(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("metarl_experiments.reporting.report.evaluate", work)
    succeed("report", str(run), *protocol, "--out", str(run.parent / "again"))
    with pytest.raises(AssertionError):
        succeed("report", str(run))


def test_a_run_alone(run: Path) -> None:
    def labels() -> set[str]:
        return {row["label"] for row in rows_of(run / "report" / "adaptation.csv")}

    succeed("report", str(run))
    assert {"run", "MAML (shipped)", "MAML (paper)"} < labels()
    succeed("report", str(run), "--alone")
    assert labels() == {"run"}


def test_several_runs_by_another_protocol(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = shutil.copytree(run, run.parent / "other")
    monkeypatch.chdir(run.parent)
    succeed("report", "run", "other", "--task-seed=3", "--tasks=4")
    drawn = rows_of(Path("report-tasks-4-task-seed-3/adaptation.csv"))
    assert {row["label"] for row in drawn} >= {"run", "other"}
    assert not any("shipped" in row["label"] for row in drawn)  # measured on other tasks
    assert (other / "evaluation-tasks-4-task-seed-3.json").exists()


def test_a_damaged_evaluation_of_another_protocol_is_named(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (run / "evaluation-tasks-3.json").write_text('{"mean": 1}')
    assert "evaluation-tasks-3.json" in refuse(capfd, 2, "report", str(run), "--tasks=3")
    assert not (run / "report-tasks-3").exists()


def test_goals_and_authors_are_those_of_the_protocol(point: Path, tmp_path: Path) -> None:
    def drawn(*options: str) -> list[dict[str, str]]:
        out = tmp_path / "page"
        succeed("report", str(point), f"--out={out}", *options)
        return rows_of(out / "adaptation.csv")

    fresh = drawn("--task-seed=0", "--tasks=2", "--steps=1", "--episodes=3")
    assert {row["label"] for row in fresh} == {"point"}
    paths = rows_of(tmp_path / "page" / "paths.csv")
    assert {(row["steps"], row["task"]) for row in paths} == {*zip("0011", "0101", strict=True)}
    assert {row["episode"] for row in paths} == set("012")
    named = "MAML (authors)"
    few = [row for row in drawn("--tasks=3", "--steps=5") if row["label"] in ("point", named)]
    assert [row["steps"] for row in few if row["label"] == "point"] == list("012345")
    first = next(row for row in few if row["label"] == named and row["steps"] == "1")
    assert float(first["return"]) == pytest.approx((-12.19 - 20.8 - 21.73) / 3, abs=1e-6)
    assert {row["label"] for row in drawn("--tasks=3", "--alone")} == {"point"}


def test_more_goals_than_the_paper_has(
    point: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = refuse(capfd, 2, "report", str(point), "--tasks=50", f"--out={tmp_path / 'page'}")
    assert "--tasks 50" in line
    assert not (tmp_path / "page").exists()


def test_stills_are_of_the_steps_and_episodes_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cheetah"
    succeed("train", "cheetah-velocity", f"--out={out}", "--env.horizon=8", *POINT)
    asked: list[Any] = []

    def play(_: Any, tasks: Any, steps: Any, options: Any, **__: Any) -> Any:
        asked.append((tasks, steps, options))
        raise InputError("no OpenGL here")

    monkeypatch.setattr("metarl_experiments.plots.stills.play", play)
    options = EvaluateOptions(steps=5, task_seed=2, tasks=4)
    with pytest.warns(UserWarning, match="no OpenGL here"):
        assert stills("run", load(out), options) is None
    ((tasks, steps, told),) = asked
    assert steps == [0, 5]
    assert told is options
    learner: Any = load(out).learner
    assert tasks[0] in learner.test_tasks(options)[0]
