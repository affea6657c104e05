"""What `make train` runs, on a budget of a second."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import SMALL

from metarl.runs import read_metrics
from metarl_experiments import job
from metarl_experiments.catalog import Experiment
from metarl_experiments.commands import train
from metarl_experiments.options import find_experiment


def test_trains_evaluates_and_says_where_the_figures_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert job.run(["sinusoid", *SMALL, f"--out={run}"]) == 0
    page = run / "report/index.html"
    assert capsys.readouterr().out.splitlines()[-1] == f"figures and page: {page}"
    assert page.exists()
    assert list(page.parent.glob("*.png"))
    assert (run / "evaluation.json").exists()
    assert read_metrics(run / "metrics.jsonl")[-1]["iteration"] == 20


@pytest.mark.parametrize(
    "given", [["--minutes=0.5"], ["--minutes", "0.5"], [], ["--seed=1"]], ids=" ".join
)
def test_minutes_are_the_experiments_unless_given(
    monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    seen: list[str] = []

    def stopped(experiment: Experiment, options: Sequence[str]) -> tuple[int, Path]:
        seen.extend(options)
        return 143, Path("nowhere")  # what failed is not evaluated

    monkeypatch.setattr(train, "train_experiment", stopped)
    assert job.run(["navigation", *given]) == 143
    own = ["--minutes", str(find_experiment("navigation").job_minutes)]
    assert seen == (given if any("minutes" in x for x in given) else [*given, *own])


@pytest.mark.parametrize("argv", [[], ["--seed=1"], ["sinusoid", "navigation"]], ids=" ".join)
def test_one_experiment_is_named(argv: list[str]) -> None:
    command = [sys.executable, "-m", "metarl_experiments.job", *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "EXPERIMENT: " in line
