"""The loop and what follows a training: what they count, keep, compare and draw."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import succeed, train_small
from spies import recorded
from toy import Silent, Toy

from metarl.runs import open_run, read_best, read_json, read_metrics
from metarl_experiments.configs.rl import Config
from metarl_experiments.configs.sinusoid import EvaluateOptions
from metarl_experiments.evaluation.comparison import compare
from metarl_experiments.evaluation.evaluate import load
from metarl_experiments.evaluation.evaluations import FIELDS, digest
from metarl_experiments.family import Metrics, State
from metarl_experiments.plots.diagnostics import diagnostics
from metarl_experiments.reporting.report import evaluation_of
from metarl_experiments.training.loop import STALLED_RECORDS, Outcome, Plan, train

PLAN = Plan(iterations=30, log_every=1, validate_every=10, checkpoint_seconds=1e6)


def go(path: Path, learner: Toy, plan: Plan = PLAN, *, resume: bool = False) -> tuple[Any, Silent]:
    """Train in a run directory; the outcome and the reporter."""
    reporter = Silent()
    with open_run(path, None if resume else {"toy": 1}, resume=resume) as run:
        start = run.load() if resume else None
        return train(learner, run, learner.init(0), plan, reporter, start=start), reporter


class Stuck(Toy):
    """Adaptation changes nothing, and no validation is better than the first."""

    def step(self, state: State, iteration: int) -> Metrics:
        super().step(state, iteration)
        rare = {"rare": float(iteration)} if iteration % 10 == 9 else {}
        return {"loss_before": 2.0, "loss_after": 2.0, **rare}

    def validate(self, state: State) -> Metrics:
        super().validate(state)
        return {"loss_after": 1.0}


def test_records_without_a_gain_are_counted_across_a_restart(tmp_path: Path) -> None:
    assert 15 < STALLED_RECORDS < 30
    _, before = go(tmp_path / "run", Stuck(), replace(PLAN, iterations=15))
    _, after = go(tmp_path / "run", Stuck(), resume=True)
    warned = [[x for x in reporter.said if "warning" in x] for reporter in (before, after)]
    assert warned[0] == []
    # Mutants: a checkpoint that forgets the count; a gain of 0 is one.
    assert [f"(iteration {STALLED_RECORDS})" in x for x in warned[1]] == [True]


def test_first_of_equal_validations_is_kept(tmp_path: Path) -> None:
    _, reporter = go(tmp_path / "run", Stuck())
    best = read_best(tmp_path / "run")
    assert best is not None
    assert best.iteration == 10
    assert sum("best so far" in x for x in reporter.said) == 1


def test_a_rare_metric_is_the_mean_of_the_iterations_that_have_it(tmp_path: Path) -> None:
    go(tmp_path / "run", Stuck(), replace(PLAN, log_every=20, validate_every=30))
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [record["rare"] for record in records] == [(9 + 19) / 2, 29]


@pytest.mark.parametrize("interrupted", [False, True])
def test_only_a_run_whose_time_is_up_is_validated_at_its_end(
    tmp_path: Path, interrupted: bool
) -> None:
    class Interrupted(Toy):
        def step(self, state: State, iteration: int) -> Metrics:
            if interrupted:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().step(state, iteration)

    learner = Interrupted()
    outcome, _ = go(tmp_path / "run", learner, replace(PLAN, minutes=0.0))
    assert outcome == Outcome(1, signal.SIGTERM if interrupted else None)
    # Mutant: who stops a run that is late waits for a validation.
    assert learner.calls == ["step 0"] + ["validate"] * (not interrupted)


def test_interval_of_a_comparison_leaves_out_a_fortieth_at_each_end() -> None:
    """Of 40 differences half are 1 and half 0: sums of resamples are binomial."""
    head = dict.fromkeys(FIELDS, "x") | {"steps": 0, "tasks": 40, "variants": {}}
    one, other = ({**head, "per_task": [[x] * 20 + [0.0] * 20]} for x in (1.0, 0.0))
    found = compare(one, other)
    # P(sum <= 13) = 0.019, P(sum <= 14) = 0.040, and 26 likewise from above.
    assert [*found["low"], *found["high"]] == pytest.approx([14 / 40, 26 / 40])


def test_limit_in_the_diagnostics_is_that_of_the_iterations_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = recorded(monkeypatch, "metarl_experiments.plots.diagnostics.kl_limit")
    config = Config(iterations=4, lr_decay="cosine")
    diagnostics("run", [{"iteration": i, "kl": 0.01} for i in (1, 2, 4)], config)
    # A record's iteration counts those done; the update's counts from 0.
    assert {call.args for call in calls} == {(config, i) for i in (0, 1, 3)}


def test_a_report_measures_anew_what_was_measured_on_other_parameters(tmp_path: Path) -> None:
    run = train_small(tmp_path / "run", "--hidden", "4")
    succeed("evaluate", str(run))
    loaded, told = load(run), read_json(run / "evaluation.json")
    protocol = EvaluateOptions()
    assert evaluation_of(loaded, protocol) == told
    moved = loaded._replace(params={name: p + 0.1 for name, p in loaded.params.items()})
    found = evaluation_of(moved, protocol)
    assert found["variants"]["parameters"] == digest(moved.params)
    assert not np.allclose(found["mean"], told["mean"])


def test_plan_is_that_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(
        monkeypatch, "metarl_experiments.commands.train.train", lambda *_, **__: Outcome(0, None)
    )
    argv = ["--iterations=40", "--log-every=4", "--validate-every=8", "--patience=16"]
    argv += ["--checkpoint-seconds=5", "--minutes=2", "--compile=off"]
    succeed("train", "sinusoid", f"--out={tmp_path / 'run'}", *argv)
    assert calls[0].args[3] == Plan(40, 4, 8, 5.0, 2.0, 16)
