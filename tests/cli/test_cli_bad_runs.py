"""Evaluate and report on runs that are missing, partial, damaged, or another's."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import refuse, succeed, train_small
from runs_at import contents, newest, seal

from metarl.runs import arrays, load_checkpoint
from metarl_experiments.__main__ import main
from metarl_experiments.evaluation import shipped
from metarl_experiments.evaluation.evaluations import check_evaluation

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was evaluated."""
    run = train_small(tmp_path_factory.mktemp("source") / "run", "--init-std=0.3")
    succeed("evaluate", str(run))
    return run


def json_with(name: str, **changes: Any) -> Change:
    """Values of a JSON file replaced; None takes one out."""

    def change(run: Path) -> None:
        value = json.loads((run / name).read_text()) | changes
        kept = {k: v for k, v in value.items() if v is not None}
        (run / name).write_text(json.dumps(kept))

    return change


def text(name: str, value: str) -> Change:
    return lambda run: (run / name).write_text(value)


def nan_inside(run: Path) -> None:
    for checkpoint in (run / "checkpoints").iterdir():
        params = load_checkpoint(checkpoint).params
        name = min(params)
        params[name] = np.full_like(params[name], np.nan)
        (checkpoint / "params.npz").write_bytes(arrays.encode(params))
        seal(checkpoint)


def emptied(run: Path) -> None:
    shutil.rmtree(run)
    run.mkdir()


def no_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "best.json").unlink()


def wrong_row(run: Path) -> None:
    value = json.loads((run / "evaluation.json").read_text())
    value["per_task"][3] = value["per_task"][3][:-1]
    (run / "evaluation.json").write_text(json.dumps(value))


def hole(run: Path) -> None:
    value = json.loads((run / "evaluation.json").read_text())
    value["per_task"][3][0] = None
    (run / "evaluation.json").write_text(json.dumps(value))


BOTH: dict[str, tuple[Change, int, str]] = {
    "missing": (shutil.rmtree, 2, "holds no run"),
    "empty": (emptied, 2, "holds no run"),
    "file": (lambda run: (shutil.rmtree(run), run.write_text("x")), 2, "holds no run"),
    "no checkpoint": (no_checkpoints, 2, "no checkpoint yet"),
    "NaN in parameters": (nan_inside, 3, "non-finite"),
    "config empty": (text("config.json", ""), 3, "config.json"),
    "config a list": (text("config.json", "[]"), 3, "config.json"),
    "config without experiment": (text("config.json", "{}"), 2, "is no run of"),
    "config changed": (json_with("config.json", seed=3), 3, "another config"),
    "best empty": (text("best.json", ""), 2, "best.json"),
    "best NaN": (text("best.json", '{"iteration": 1, "metric": "x", "value": NaN}'), 2, "best"),
    "best iteration": (json_with("best.json", iteration="1"), 2, "best.json is damaged: iteration"),
    "best before 0": (json_with("best.json", iteration=-1), 2, "best.json is damaged: iteration"),
    "best metric": (json_with("best.json", metric=3), 2, "best.json is damaged: metric"),
    "best value": (json_with("best.json", value=[1.0]), 2, "best.json is damaged: value"),
    "best more": (json_with("best.json", more=1), 2, "best.json is damaged"),
    "metrics torn": (text("metrics.jsonl", '{"iteration": 1}\n{"iter\n'), 2, "line 2"),
    "metrics NaN": (text("metrics.jsonl", '{"iteration": 5, "loss_after": NaN}\n'), 2, "line 1"),
}
UNREADABLE = ("empty", "torn", "NaN", "list")
ONLY_REPORT: dict[str, tuple[Change, str]] = {
    "empty": (text("evaluation.json", ""), "evaluation.json is damaged"),
    "torn": (text("evaluation.json", '{"mean": [1.0'), "evaluation.json is damaged"),
    "NaN": (text("evaluation.json", '{"mean": [NaN]}'), "not a finite number"),
    "list": (text("evaluation.json", "[1]"), "not a JSON object"),
    "partial": (json_with("evaluation.json", per_task=None), "it has no per_task"),
    "other mean": (json_with("evaluation.json", mean=[1.0] * 11), "mean is not that of per_task"),
    "short mean": (json_with("evaluation.json", mean=[1.0]), "mean has not one number"),
    "other interval": (json_with("evaluation.json", ci95=[9.0] * 11), "ci95 is not that"),
    "ragged": (wrong_row, "evaluation.json is damaged"),
    "hole": (hole, "mean is null where"),
    "other experiment": (json_with("evaluation.json", experiment="omniglot"), "it is of omniglot"),
    "text": (json_with("evaluation.json", steps="ten"), "evaluation.json is damaged"),
}


@pytest.mark.parametrize("kind", BOTH)
def test_bad_run_is_one_line(
    source: Path, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(source, tmp_path / "run"))
    change, status, naming = BOTH[kind]
    change(run)
    before = contents(tmp_path)
    assert naming in refuse(capfd, status, "evaluate", str(run))
    assert naming in refuse(capfd, status, "report", str(run))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ONLY_REPORT)
def test_report_refuses_a_bad_evaluation(
    source: Path, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(source, tmp_path / "run"))
    change, naming = ONLY_REPORT[kind]
    change(run)
    before = contents(run)
    line = refuse(capfd, 2, "report", str(run))
    assert naming in line
    assert "evaluation.json" in line
    assert contents(run) == before
    if kind in UNREADABLE:
        assert naming in refuse(capfd, 2, "evaluate", str(run))
    else:
        succeed("evaluate", str(run), "--tasks=5")


def test_report_of_another_runs_evaluation_makes_its_own(source: Path, tmp_path: Path) -> None:
    """Same experiment, same iteration, other parameters: the mean would be wrong."""
    run = train_small(tmp_path / "run", "--init-std=0.3", "--seed=1")
    last = json.loads((run / "best.json").read_text())["iteration"]
    stranger = json.loads((source / "evaluation.json").read_text()) | {"iteration": last}
    (run / "evaluation.json").write_text(json.dumps(stranger))
    succeed("report", str(run))
    value = json.loads((run / "evaluation.json").read_text())
    assert value["mean"] != stranger["mean"]


def test_metrics_without_lines_or_tags(source: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(source, tmp_path / "run"))
    for lines in ("", '{"iteration": 5}\n{"iteration": 10, "loss_after": null}\n'):
        (run / "metrics.jsonl").write_text(lines)
        succeed("report", str(run))


@pytest.mark.filterwarnings("default::metarl.errors.RunWarning")
def test_a_damaged_best_falls_back_with_a_warning(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(source, tmp_path / "run"))
    (newest(run) / "state.json").unlink()
    capfd.readouterr()
    assert main(["evaluate", str(run), "--tasks=5", "--last"]) == 0
    assert "warning: skipped" in capfd.readouterr().err


def test_runs_of_different_experiments_are_not_mixed(
    source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    tiny = ["--compile=off", "--meta-batch=2", "--episodes=2", "--hidden=8", "--iterations=1"]
    succeed("train", "navigation", *tiny, "--validation-tasks=2", f"--out={other}")
    out = f"--out={tmp_path / 'x'}"
    before = contents(tmp_path)
    for one, two in ((source, other), (other, source)):
        line = refuse(capfd, 2, "evaluate", str(one), "--compare", str(two), out)
        assert "navigation" in line
        assert "sinusoid" in line
        assert "one experiment" in refuse(capfd, 2, "report", str(one), str(two), out)
    assert contents(tmp_path) == before


def test_shipped_evaluations_are_whole() -> None:
    for path in shipped.ROOT.glob("*/seed-*/evaluation.json"):
        value = json.loads(path.read_text())
        check_evaluation(value, value["experiment"], path)
