"""Pages of other protocols than the default, and of runs alone."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import refuse, succeed, train_small
from spies import recorded

from metarl.errors import InputError
from metarl_experiments.configs.rl import EvaluateOptions
from metarl_experiments.evaluation.evaluate import load
from metarl_experiments.plots.paths import paths
from metarl_experiments.plots.stills import stills
from metarl_experiments.plots.tasks import against_task, drawn_steps

POINT = ("--compile=off", "--threads=1", "--hidden", "4", "--episodes=2", "--meta-batch=2")
POINT += ("--validation-tasks=2", "--evaluation-episodes=2", "--iterations=1")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return train_small(tmp_path / "run")


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
    assert set(fits[0]) >= {"after_0", "after_1", "after_4"}

    def work(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("metarl_experiments.reporting.report.evaluate", work)
    succeed("report", str(run), *protocol, "--out", str(run.parent / "again"))
    with pytest.raises(AssertionError):
        succeed("report", str(run))


def test_a_run_alone_and_beside_what_was_measured_on_the_same_tasks(run: Path) -> None:
    def labels(*options: str) -> set[str]:
        succeed("report", str(run), f"--out={run / 'page'}", *options)
        return {row["label"] for row in rows_of(run / "page" / "adaptation.csv")}

    beside = {"run", "MAML (shipped)", "MAML (paper)"}
    assert beside < labels()
    assert beside < labels("--steps=12")
    assert labels("--alone") == {"run"}
    assert labels("--shots=4") == {"run"}
    assert labels("--task-seed=1") == {"run", "MAML (paper)", "pretrained (paper)"}


def test_evaluations_of_other_protocols_keep_their_names(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = run / "evaluation.json"
    line = refuse(capfd, 2, "evaluate", str(run), "--tasks=3", f"--out={file}")
    assert f"name {run / 'evaluation-tasks-3.json'}" in line
    assert "default protocol" in refuse(capfd, 2, "evaluate", str(run), "--last", f"--out={file}")
    assert not file.exists()
    succeed("evaluate", str(run), f"--out={file}")
    succeed("evaluate", str(run), "--tasks=3", f"--out={run / 'evaluation-tasks-3.json'}")
    succeed("evaluate", str(run), "--tasks=3", f"--out={run.parent / 'evaluation.json'}")


@pytest.mark.parametrize(
    ("most", "drawn"), [(0, [0]), (1, [0, 1]), (4, [0, 1, 2, 3, 4]), (60, [0, 1, 2, 3, 60])]
)
def test_few_of_many_steps_are_drawn(
    most: int, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no two of them alike."""
    assert drawn_steps(most) == drawn
    returns = np.random.default_rng(0).normal(size=(most + 1, 6))
    for values in ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1.0, -1.0, 1.0, 1.0, -1.0, 1.0]):
        told = {"per_task": returns.tolist(), "variants": {"task": {"velocity": values}}}
        calls = recorded(monkeypatch, "matplotlib.axes.Axes.plot")
        (figure,) = against_task("run", told, units=True)
        looks = {call.options["label"]: call.options for call in calls if "label" in call.options}
        looks.pop("_", None)
        assert len(looks) == len(drawn)
        marks = {(look["color"], look["marker"]) for look in looks.values()}
        assert len(marks) == len(drawn)
        assert len(figure.rows[0]) == 2 + most + 1  # all of them
        monkeypatch.undo()


def test_few_tasks_are_no_categories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three velocities have an axis in metres a second; two directions have names."""

    labels = recorded(monkeypatch, "matplotlib.axes.Axes.set")
    ticks = recorded(monkeypatch, "matplotlib.axes.Axes.set_xticks")

    def draw(**task: list[float]) -> None:
        told = {"per_task": [[1.0, 2.0, 3.0]], "variants": {"task": task}}
        against_task("run", told, units=True)

    draw(velocity=[0.1, 0.5, 0.9])
    assert labels[0].options["xlabel"] == "velocity of the task (m/s)"
    assert ticks == []
    draw(direction=[1.0, -1.0, 1.0])
    assert ticks[0].args[2] == ["backwards", "forwards"]


def test_runs_of_other_ranges_are_told_the_way_out(
    point: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wide = tmp_path / "wide"
    succeed("train", "navigation", f"--out={wide}", "--env.task-range", "-1", "1", *POINT)
    both, out = (str(point), str(wide)), f"--out={tmp_path / 'page'}"
    assert "add --task-range LOW HIGH" in refuse(capfd, 2, "report", *both, out)
    succeed("report", *both, out, "--task-range", "-1", "1", "--tasks=1", "--episodes=1")
    page = (tmp_path / "page" / "index.html").read_text()
    assert "Mean over 1 held-out task," in page
    assert ": 1 test task, 1 episode of each under the mean return of all 1." in page


def test_a_folder_that_cannot_be_made_leaves_none(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refuse(capfd, 4, "report", str(run), f"--out={tmp_path / 'new' / ('x' * 300)}")
    assert not (tmp_path / "new").exists()


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
    """Before anything is measured, of other runs too."""
    other = shutil.copytree(run, run.parent / "other")
    (other / "evaluation-tasks-3.json").write_text('{"mean": 1}')
    out = f"--out={run.parent / 'page'}"
    line = refuse(capfd, 2, "report", str(run), str(other), "--tasks=3", out)
    assert str(other / "evaluation-tasks-3.json") in line
    assert not (run / "evaluation-tasks-3.json").exists()
    assert not (run.parent / "page").exists()


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


def test_paths_lead_to_the_goals_of_the_protocol(point: Path) -> None:
    """With the same noise: what differs after a step is due to the goal."""
    loaded = load(point)
    given, fresh = (
        paths("run", loaded, EvaluateOptions(steps=1, tasks=1, task_seed=seed)).rows
        for seed in ("paper", 0)
    )
    before = [row for row in given if row[0] == 0]
    assert before == [row for row in fresh if row[0] == 0]
    assert given != fresh


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
