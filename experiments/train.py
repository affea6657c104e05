"""The training loop of every experiment: log, validate, checkpoint, stop; families have none."""

import math
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from metarl.errors import NonFiniteError, SaveError
from metarl.runs import Run, Snapshot
from metarl.runs.faults import fault_point

from .family import Learner, Metrics, State
from .progress import Reporter
from .signals import StopRequest, stop_request
from .state import restore, snapshot

RETRY_SECONDS = 1.0
# Log records in a row without a gain from adaptation before a warning.
STALLED_RECORDS = 20


@dataclass(frozen=True)
class Plan:
    """When the loop does what.

    Attributes:
        iterations: where it ends.
        log_every: iterations in a metrics record.
        validate_every: iterations between validations; the last iteration is validated too.
        checkpoint_seconds: time between checkpoints.
        minutes: time after which it ends early; None for no limit.
        patience: iterations without a better validation after which it ends early; None for no
            limit.
    """

    iterations: int
    log_every: int
    validate_every: int
    checkpoint_seconds: float = 30.0
    minutes: float | None = None
    patience: int | None = None


class Outcome(NamedTuple):
    """How training ended: iterations done, and the signal that stopped it, if one did."""

    iteration: int
    signum: int | None


def train(
    learner: Learner,
    run: Run,
    state: State,
    plan: Plan,
    reporter: Reporter,
    *,
    start: Snapshot | None = None,
) -> Outcome:
    """Iterate until the plan ends or a signal comes; the run directory then holds the last state.

    Args:
        learner: what one iteration is.
        run: open run directory.
        state: fresh, from ``learner.init``; changed in place.
        plan: when to log, validate, checkpoint and end.
        reporter: told about progress.
        start: checkpoint of this run to continue, bit for bit; None for a new run.

    Raises:
        NonFiniteError: with the offending batch kept under ``failures/`` of the run.
        SaveError: nothing could be written three times in a row.
        Abandoned: a signal came and the iteration did not end in time; the last checkpoint stands.
    """
    loop = _Loop()
    if start is not None:
        loop = _Loop(start.iteration, **restore(state, start))
    with stop_request() as stop:
        if start is None:
            with stop.shield():
                run.save(_snapshot(state, loop))
        try:
            _iterate(learner, run, state, loop, plan, reporter, stop)
        except NonFiniteError as error:
            run.keep_failure(loop.iteration, error)
            raise
        finally:
            reporter.close()
        while not _saved(run, _snapshot(state, loop), reporter, stop):
            time.sleep(RETRY_SECONDS)
    return Outcome(loop.iteration, stop.signum)


@dataclass
class _Loop:
    """What the loop itself carries from iteration to iteration; part of every checkpoint.

    Attributes:
        iteration: iterations done.
        window: metrics since the last record.
        stalled: records in a row in which adaptation did not help.
    """

    iteration: int = 0
    window: list[dict[str, float]] = field(default_factory=list)
    stalled: int = 0


def _snapshot(state: State, loop: _Loop) -> Snapshot:
    carried = {"window": list(loop.window), "stalled": loop.stalled}
    return snapshot(state, loop.iteration, carried)


def _iterate(
    learner: Learner,
    run: Run,
    state: State,
    loop: _Loop,
    plan: Plan,
    reporter: Reporter,
    stop: StopRequest,
) -> None:
    began = recorded = time.monotonic()
    deadline = math.inf if plan.minutes is None else began + 60 * plan.minutes
    next_save = began + plan.checkpoint_seconds
    validating = 0.0
    over = loop.iteration >= plan.iterations or _stale(run, loop, plan)
    while not over:
        loop.window.append(_floats(learner.step(state, loop.iteration)))
        loop.iteration += 1
        now = time.monotonic()
        stopped = stop.signum is not None
        over = loop.iteration >= plan.iterations or now >= deadline or stopped
        validates = loop.iteration % plan.validate_every == 0 or (over and not stopped)
        if validates or loop.iteration % plan.log_every == 0:
            record = _means(loop.window)
            record["seconds.iteration"] = (now - recorded) / len(loop.window)
            loop.window.clear()
            reporter.update(loop.iteration, record)
            _watch(learner, loop, record, reporter)
            metrics = _validate(learner, state) if validates else {}
            run.log({"iteration": loop.iteration, **record, **metrics})
            if validates:
                _keep_best(learner, run, _snapshot(state, loop), metrics, reporter, stop)
                validating += time.monotonic() - now
                over = over or _stale(run, loop, plan)
            recorded = time.monotonic()
        if now >= next_save and not over:
            _saved(run, _snapshot(state, loop), reporter, stop)
            next_save = time.monotonic() + plan.checkpoint_seconds
        fault_point("train:iteration")
    elapsed = time.monotonic() - began
    if validating > max(0.1 * elapsed, 10.0):
        reporter.say(f"validation took {validating / elapsed:.0%} of the time; validate less often")


def _stale(run: Run, loop: _Loop, plan: Plan) -> bool:
    """Whether validation has not improved for longer than the plan has patience."""
    if plan.patience is None or run.best is None:
        return False
    # Asked again when a run is resumed between validations.
    validated = loop.iteration - loop.iteration % plan.validate_every
    return validated - run.best.iteration >= plan.patience


def _floats(metrics: Metrics) -> dict[str, float]:
    """Plain numbers, all finite.

    Raises:
        NonFiniteError: one is not.
    """
    values = {name: float(value) for name, value in metrics.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise NonFiniteError(f"{name} is {value}", place=name)
    return values


def _means(window: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for metrics in window for name in metrics)
    columns = {name: [m[name] for m in window if name in m] for name in names}
    return {name: math.fsum(values) / len(values) for name, values in columns.items()}


def _gain(learner: Learner, before: float, after: float) -> float:
    return after - before if learner.higher_is_better else before - after


def _watch(learner: Learner, loop: _Loop, record: dict[str, float], reporter: Reporter) -> None:
    """Warn once when adaptation has not helped for a while."""
    before, after = (record.get(name) for name in learner.shown)
    if before is None or after is None:
        return
    loop.stalled = 0 if _gain(learner, before, after) > 0 else loop.stalled + 1
    if loop.stalled == STALLED_RECORDS:
        reporter.say(
            f"warning: adaptation has not helped in the last {STALLED_RECORDS} records "
            f"(iteration {loop.iteration})"
        )


def _validate(learner: Learner, state: State) -> dict[str, float]:
    fault_point("train:validate")
    metrics = learner.validate(state)
    return {f"validation.{name}": float(value) for name, value in metrics.items()}


def _keep_best(
    learner: Learner,
    run: Run,
    snapshot: Snapshot,
    metrics: dict[str, float],
    reporter: Reporter,
    stop: StopRequest,
) -> None:
    """Save the snapshot as the best where it is; an infinite loss never is."""
    name = f"validation.{learner.criterion}"
    value = metrics[name]
    best = math.isfinite(value) and (run.best is None or _gain(learner, run.best.value, value) > 0)
    if best:
        _saved(run, snapshot, reporter, stop, best=(name, value))
    label = learner.criterion.replace("_", " ")
    note = " (best so far)" if best else ""
    reporter.say(f"validation at {snapshot.iteration}: {label} {value:.4g}{note}")


def _saved(
    run: Run,
    snapshot: Snapshot,
    reporter: Reporter,
    stop: StopRequest,
    best: tuple[str, float] | None = None,
) -> bool:
    """Save a checkpoint, perhaps as the best; false when it failed and is to be tried again.

    Raises:
        SaveError: it failed for the last time.
    """
    try:
        with stop.shield():
            if best is None:
                run.save(snapshot)
            else:
                run.save_best(snapshot, *best)
    except SaveError as error:
        if run.gives_up:
            raise
        reporter.say(f"warning: {error}; training goes on, and it is tried again")
        return False
    return True
