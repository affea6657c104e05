"""The training loop, on a family small enough to see through."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import Silent, Toy

from metarl.errors import NonFiniteError, SaveError
from metarl.runs import Run, Snapshot, faults, load_checkpoint, open_run, read_best, read_metrics
from metarl_experiments.family import Metrics, State
from metarl_experiments.memory import Needs
from metarl_experiments.training import signals
from metarl_experiments.training.loop import STALLED_RECORDS, Outcome, Plan, train
from metarl_experiments.training.signals import Abandoned

PLAN = Plan(iterations=50, log_every=10, validate_every=25, checkpoint_seconds=1e6)


def go(path: Path, learner: Toy, plan: Plan = PLAN, *, seed: int = 0, resume: bool = False) -> Any:
    """Train in a run directory; the outcome and the reporter."""
    reporter = Silent()
    with open_run(path, None if resume else {"toy": 1}, resume=resume) as run:
        start = run.load() if resume else None
        outcome = train(learner, run, learner.init(seed), plan, reporter, start=start)
    return outcome, reporter


def last(path: Path) -> Snapshot:
    return load_checkpoint(max((path / "checkpoints").iterdir()))


def records(path: Path) -> list[dict[str, Any]]:
    """Metrics without times."""
    lines = read_metrics(path / "metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


def assert_same_run(one: Path, other: Path) -> None:
    a, b = last(one), last(other)
    assert a.iteration == b.iteration
    for ours, theirs in ((a.params, b.params), (a.optimizer, b.optimizer)):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert a.state == b.state
    assert records(one) == records(other)


def test_logs_validates_and_ends(tmp_path: Path) -> None:
    learner = Toy()
    outcome, reporter = go(tmp_path / "run", learner)
    assert outcome == Outcome(50, None)
    assert [r["iteration"] for r in records(tmp_path / "run")] == [10, 20, 25, 30, 40, 50]
    assert learner.calls.count("validate") == 2
    assert reporter.closed
    assert reporter.updates[-1] == 50
    assert last(tmp_path / "run").iteration == 50


def test_record_is_the_mean_since_the_one_before(tmp_path: Path) -> None:
    learner = Toy()
    go(tmp_path / "run", learner)
    state = learner.init(0)
    losses = [float(learner.step(state, i)["loss_after"]) for i in range(20)]
    found = records(tmp_path / "run")[1]["loss_after"]
    assert found == pytest.approx(np.mean(losses[10:]), rel=1e-12)


class Plateau(Toy):
    """Validates best at iteration 10, and never as well again."""

    def validate(self, state: State) -> Metrics:
        self.calls.append("validate")
        steps = sum(call.startswith("step") for call in self.calls)
        return {"loss_after": 1.0 if steps == 10 else 2.0}


def test_patience_ends_a_run_that_validates_no_better(tmp_path: Path) -> None:
    plan = replace(PLAN, iterations=100, validate_every=5, patience=20)
    outcome, _ = go(tmp_path / "run", Plateau(), plan)
    assert outcome == Outcome(30, None, stale=True)
    # Resuming does not train on.
    outcome, _ = go(tmp_path / "run", Plateau(), plan, resume=True)
    assert outcome == Outcome(30, None, stale=True)
    # Patience of one validation more, and none at all.
    assert go(tmp_path / "more", Plateau(), replace(plan, patience=21))[0].iteration == 35
    assert go(tmp_path / "none", Plateau(), replace(plan, patience=None))[0].iteration == 100


def test_a_run_that_ends_early_says_why(tmp_path: Path) -> None:
    plan = replace(PLAN, iterations=100, validate_every=5, patience=20)
    reporter = Silent()
    with open_run(tmp_path / "a", {"toy": 1}, resume=False) as run:
        train(Plateau(), run, Plateau().init(0), plan, reporter)
    assert reporter.said[-1] == "validation has not improved for 20 iterations (--patience)"
    with open_run(tmp_path / "b", {"toy": 1}, resume=False) as run:
        train(Toy(), run, Toy().init(0), replace(PLAN, minutes=0.0), reporter)
    assert reporter.said[-1] == "ended after 0.0 minutes (--minutes)"
    whole = Silent()
    with open_run(tmp_path / "c", {"toy": 1}, resume=False) as run:
        train(Toy(), run, Toy().init(0), replace(PLAN, iterations=1), whole)
    assert not [line for line in whole.said if "ended" in line or "improved" in line]


def test_patience_between_validations_waits_for_the_next(tmp_path: Path) -> None:
    plan = replace(PLAN, iterations=27, validate_every=10, patience=12)
    learner = Plateau()
    go(tmp_path / "run", learner, plan)
    # At 27 the best is 17 iterations old; an uninterrupted run would look at 30.
    outcome, _ = go(tmp_path / "run", learner, replace(plan, iterations=100), resume=True)
    assert outcome == Outcome(30, None, stale=True)


def test_iteration_0_is_saved_before_the_first_step(tmp_path: Path) -> None:
    seen = []

    class Looking(Toy):
        def step(self, state: State, iteration: int) -> Metrics:
            seen.append(sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()))
            return super().step(state, iteration)

    go(tmp_path / "run", Looking(), replace(PLAN, iterations=1))
    assert seen == [["00000000"]]


class Stopping(Toy):
    """Sends itself a signal at an iteration."""

    at = 17
    signum = signal.SIGTERM

    def step(self, state: State, iteration: int) -> Metrics:
        if iteration == self.at:
            os.kill(os.getpid(), self.signum)
        return super().step(state, iteration)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, signum: signal.Signals) -> None:
    go(tmp_path / "whole", Toy())
    learner = Stopping()
    learner.signum = signum
    before = signal.getsignal(signum)
    outcome, _ = go(tmp_path / "broken", learner)
    assert outcome == Outcome(18, signum)
    assert last(tmp_path / "broken").iteration == 18
    assert signal.getsignal(signum) == before
    go(tmp_path / "broken", Toy(), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


def test_a_compiler_that_hears_the_interrupt_too_ends_nothing_else(tmp_path: Path) -> None:
    """Ctrl-C goes to it as well, and its failure is what the iteration then tells of."""

    class Compiling(Toy):
        def step(self, state: State, iteration: int) -> Metrics:
            os.kill(os.getpid(), signal.SIGINT)
            raise RuntimeError("CppCompileError")

    with pytest.raises(Abandoned) as caught:
        go(tmp_path / "run", Compiling())
    assert caught.value.signum == signal.SIGINT


def test_time_of_an_iteration_is_that_since_the_restart(tmp_path: Path) -> None:
    """The first record has 8 iterations from before it, and 2 that took a while."""

    class Slow(Toy):
        def step(self, state: State, iteration: int) -> Metrics:
            time.sleep(0.02)
            return super().step(state, iteration)

    plan = replace(PLAN, iterations=20)
    go(tmp_path / "run", Stopping(), plan)
    go(tmp_path / "run", Slow(), plan, resume=True)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["seconds.iteration"] >= 0.02


def test_time_of_the_first_iteration_is_without_the_memory_estimate(tmp_path: Path) -> None:
    class Weighed(Toy):
        def needs(self, state: State) -> Needs:
            time.sleep(0.5)
            return super().needs(state)

    go(tmp_path / "run", Weighed(), replace(PLAN, log_every=1))
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[0]["seconds.iteration"] < 0.4


def test_stopped_in_the_last_iteration_is_done(tmp_path: Path) -> None:
    plan = replace(PLAN, iterations=47)
    go(tmp_path / "whole", Toy(), plan)
    learner = Stopping()
    learner.at = 46
    outcome, _ = go(tmp_path / "broken", learner, plan)
    assert outcome == Outcome(47, signal.SIGTERM)
    go(tmp_path / "broken", Toy(), plan, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    assert read_best(tmp_path / "broken") == read_best(tmp_path / "whole")


@pytest.mark.parametrize("part", ["optimizer", "window", "extra"])
def test_the_comparison_sees_a_lost_component(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Mutant: one component of the saved state is not restored."""
    import metarl_experiments.training.loop as module

    real = module.restore

    def lossy(state: State, saved: Snapshot) -> tuple[Any, int]:
        if part == "optimizer":
            saved = saved._replace(optimizer={})
        window, stalled = real(state, saved)
        if part == "window":
            window = []
        if part == "extra":
            state.extra["seed"] = 1
        return window, stalled

    go(tmp_path / "whole", Toy())
    go(tmp_path / "broken", Stopping())
    monkeypatch.setattr(module, "restore", lossy)
    go(tmp_path / "broken", Toy(), resume=True)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "whole", tmp_path / "broken")


class Hanging(Toy):
    """Its iteration 3 takes for ever; a signal comes meanwhile."""

    def step(self, state: State, iteration: int) -> Metrics:
        if iteration == 3:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(60)
        return super().step(state, iteration)


def test_endless_iteration_is_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarl_experiments.training.signals.PATIENCE_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(Abandoned) as caught:
        go(tmp_path / "run", Hanging())
    assert time.monotonic() - began < 5
    assert caught.value.signum == signal.SIGINT
    assert last(tmp_path / "run").iteration == 0
    go(tmp_path / "run", Toy(), resume=True)
    go(tmp_path / "whole", Toy())
    assert_same_run(tmp_path / "whole", tmp_path / "run")


class Wrapping(Hanging):
    """What interrupts it comes out as an error of its own, as from compiled code."""

    def step(self, state: State, iteration: int) -> Metrics:
        try:
            return super().step(state, iteration)
        except KeyboardInterrupt:
            raise RuntimeError("call failed") from None


def test_compiled_iteration_is_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarl_experiments.training.signals.PATIENCE_SECONDS", 0.2)
    with pytest.raises(Abandoned) as caught:
        go(tmp_path / "run", Wrapping())
    assert caught.value.signum == signal.SIGINT
    go(tmp_path / "run", Toy(), resume=True)
    go(tmp_path / "whole", Toy())
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_signal_while_saving_waits_for_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Run.save

    def slow(self: Run, snapshot: Snapshot) -> None:
        if snapshot.iteration == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        real(self, snapshot)

    monkeypatch.setattr(Run, "save", slow)
    with pytest.raises(Abandoned):
        go(tmp_path / "run", Toy(), replace(PLAN, checkpoint_seconds=0))
    assert last(tmp_path / "run").iteration == 5


def test_checkpoints_go_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    real = Run.save

    def save(self: Run, snapshot: Snapshot) -> None:
        saved.append(snapshot.iteration)
        real(self, snapshot)

    monkeypatch.setattr(Run, "save", save)
    go(tmp_path / "often", Toy(), replace(PLAN, checkpoint_seconds=0))
    assert len(saved) > 25
    saved.clear()
    go(tmp_path / "never", Toy(), replace(PLAN, checkpoint_seconds=1e6))
    assert saved == [0, 50]


def test_best_is_kept_in_its_direction(tmp_path: Path) -> None:
    for higher in (False, True):
        path = tmp_path / str(higher)
        with open_run(path, {"toy": 1}) as run:
            learner = Toy(higher_is_better=higher)
            plan = replace(PLAN, validate_every=5)
            train(learner, run, learner.init(0), plan, Silent())
            lines = [r for r in records(path) if "validation.loss_after" in r]
            assert run.best is not None
            pick = max if higher else min
            values = [r["validation.loss_after"] for r in lines]
            assert run.best.value == pick(values)
            assert run.best.iteration == lines[values.index(run.best.value)]["iteration"]


def test_infinite_validation_is_null_and_never_best(tmp_path: Path) -> None:
    class Diverging(Toy):
        def validate(self, state: State) -> Metrics:
            return {"loss_after": float("inf")}

    go(tmp_path / "run", Diverging())
    assert records(tmp_path / "run")[-1]["validation.loss_after"] is None
    assert not (tmp_path / "run" / "best.json").exists()


def test_non_finite_stops_with_the_batch_kept(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError) as caught:
        go(tmp_path / "run", Toy(spoil=12))
    assert (caught.value.place, caught.value.task) == ("loss", 1)
    with np.load(tmp_path / "run" / "failures" / "00000012.npz", allow_pickle=False) as kept:
        assert np.isnan(kept["x"]).all()
    assert last(tmp_path / "run").iteration == 0


def test_non_finite_metric_is_caught_in_its_iteration(tmp_path: Path) -> None:
    class Spoilt(Toy):
        def step(self, state: State, iteration: int) -> Metrics:
            metrics = dict(super().step(state, iteration))
            return metrics | {"kl": float("nan") if iteration == 7 else 0.0}

    learner = Spoilt()
    with pytest.raises(NonFiniteError, match="kl is nan"):
        go(tmp_path / "run", learner)
    assert learner.calls[-1] == "step 7"


def failing(times: int) -> Callable[[Run, Snapshot], None]:
    real = Run._save
    left = [times]

    def save(self: Run, snapshot: Snapshot, best: Any) -> None:
        if snapshot.iteration > 0 and left[0] > 0:
            left[0] -= 1
            self._failures += 1
            raise SaveError("could not write 9 bytes to disk: No space left (ENOSPC)")
        real(self, snapshot, best)

    return save  # type: ignore[return-value]


def test_failed_saves_are_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "_save", failing(2))
    outcome, reporter = go(tmp_path / "run", Toy(), replace(PLAN, checkpoint_seconds=0))
    assert outcome.iteration == 50
    assert len([line for line in reporter.said if "No space left" in line]) == 2


def test_a_best_that_could_not_be_saved_is_saved_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(tmp_path / "whole", Toy())
    monkeypatch.setattr(Run, "_save", failing(1))
    plan = replace(PLAN, iterations=50, validate_every=50)
    _, reporter = go(tmp_path / "end", Toy(), plan)
    assert any("No space left" in line for line in reporter.said)
    assert read_best(tmp_path / "end") == read_best(tmp_path / "whole")
    assert read_best(tmp_path / "end").iteration == 50
    # In the middle: the one after validates worse.
    monkeypatch.undo()
    monkeypatch.setattr(Run, "_save", failing(1))
    plan = replace(PLAN, validate_every=5, checkpoint_seconds=0)
    go(tmp_path / "middle", Plateau(), plan)
    assert read_best(tmp_path / "middle").iteration == 10


def test_third_failure_in_a_row_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "_save", failing(3))
    with pytest.raises(SaveError, match="No space left"):
        go(tmp_path / "run", Toy(), replace(PLAN, checkpoint_seconds=0))
    assert last(tmp_path / "run").iteration == 0


def test_minutes_end_a_run(tmp_path: Path) -> None:
    outcome, _ = go(tmp_path / "run", Toy(), replace(PLAN, iterations=10**9, minutes=0.002))
    assert 0 < outcome.iteration < 10**6
    assert records(tmp_path / "run")[-1]["iteration"] == outcome.iteration
    assert "validation.loss_after" in records(tmp_path / "run")[-1]


def test_useless_adaptation_is_said_once(tmp_path: Path) -> None:
    class Useless(Toy):
        def step(self, state: State, iteration: int) -> Metrics:
            return {**super().step(state, iteration), "loss_before": 0.0}

    plan = replace(PLAN, iterations=3 * STALLED_RECORDS, log_every=1)
    _, reporter = go(tmp_path / "run", Useless(), plan)
    assert len([line for line in reporter.said if "has not helped" in line]) == 1


def test_loop_costs_little_beside_the_step(tmp_path: Path) -> None:
    class Idle(Toy):
        def step(self, state: State, iteration: int) -> Metrics:
            return {"loss_after": 0.5, "gradient_norm": 1.0}

    plan = replace(PLAN, iterations=5000, log_every=100, validate_every=10**9)
    times = []
    for attempt in range(3):
        began = time.process_time()
        go(tmp_path / str(attempt), Idle(), plan)
        times.append((time.process_time() - began) / plan.iterations)
    assert min(times) < 30e-6


def test_an_abandonment_that_is_swallowed_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(signals, "REPEAT_SECONDS", 0.05)
    began = time.monotonic()

    def swallow_one() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        with suppress(signals.Abandoned):  # as a finaliser does
            time.sleep(5)
        time.sleep(5)

    with pytest.raises(signals.Abandoned), signals.stop_request():
        swallow_one()
    assert time.monotonic() - began < 4


def test_signals_while_the_first_checkpoint_is_written(tmp_path: Path) -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with (
        open_run(tmp_path / "run", {"toy": 1}) as run,
        faults.injected("save:params", twice),
        pytest.raises(signals.Abandoned),
    ):
        train(Toy(), run, Toy().init(0), Plan(5, 1, 5), Silent())
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "00000000").iteration == 0


def test_a_line_is_written_whole_whatever_signals_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, written = Run.log, []

    def twice(self: Run, record: Any) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        log(self, record)
        written.append(record["iteration"])

    monkeypatch.setattr(Run, "log", twice)
    with open_run(tmp_path / "run", {"toy": 1}) as run, pytest.raises(signals.Abandoned):
        train(Toy(), run, Toy().init(0), Plan(5, 1, 5), Silent())
    assert written == [1]
    assert [line["iteration"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1]


def test_the_terminal_is_given_back_where_the_first_save_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise SaveError("the disk is full")

    closed: list[bool] = []
    monkeypatch.setattr(Run, "save", full)
    monkeypatch.setattr(Silent, "close", lambda _: closed.append(True))
    with open_run(tmp_path / "run", {"toy": 1}) as run, pytest.raises(SaveError):
        train(Toy(), run, Toy().init(0), Plan(5, 1, 5), Silent())
    assert closed == [True]
