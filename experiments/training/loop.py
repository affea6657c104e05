"""The training loop of every experiment: log, validate, checkpoint, stop; families have none.

Every rank runs it on a state of its own, equal to the others'. The first alone has the run
directory, and decides what depends on time.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from metarl.distributed import ALONE, Ranks
from metarl.errors import NonFiniteError
from metarl.runs import Run, Snapshot
from metarl.runs.faults import fault_point

from ..family import Learner, Metrics, State
from ..progress import Reporter
from ..state import restore, snapshot
from .keeping import Keeper, gain
from .signals import stop_request

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
    """How training ended.

    Attributes:
        iteration: how many are done.
        signum: the signal that stopped it, if one did.
        stale: whether it lost its patience, and would lose it again.
    """

    iteration: int
    signum: int | None
    stale: bool = False


def train(
    learner: Learner,
    run: Run | Path,
    state: State,
    plan: Plan,
    reporter: Reporter,
    *,
    start: Snapshot | None = None,
    ranks: Ranks = ALONE,
) -> Outcome:
    """Iterate until the plan ends or a signal comes; the run directory then holds the last state.

    Args:
        learner: what one iteration is.
        run: open run directory; its path on all ranks but the first.
        state: fresh, from ``learner.init``; changed in place.
        plan: when to log, validate, checkpoint and end.
        reporter: told about progress.
        start: checkpoint of this run to continue, bit for bit; None for a new run.
        ranks: share the tasks.

    Raises:
        NonFiniteError: with the offending batch kept under ``failures/`` of the run.
        RankError: another rank failed; the last checkpoint stands.
        SaveError: nothing could be written three times in a row.
        Abandoned: a signal came and the iteration did not end in time; the last checkpoint stands.
    """
    loop = _Loop()
    if start is not None:
        loop = _Loop(start.iteration, *restore(state, start))
    with stop_request() as stop:
        keeper = Keeper(run, reporter, stop, ranks)
        try:
            if start is None:
                keeper.begin(_snapshot(state, loop))
            signum = _iterate(learner, keeper, state, loop, plan, reporter)
        except NonFiniteError as error:
            keeper.keep_failure(loop.iteration, error)
            raise
        finally:
            reporter.close()
        while not keeper.save(_snapshot(state, loop)):
            time.sleep(RETRY_SECONDS)
        early = signum is None and loop.iteration < plan.iterations
        stale = early and _stale(keeper, loop, plan)
    return Outcome(loop.iteration, stop.signum if ranks.size == 1 else signum, stale)


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
    learner: Learner, keeper: Keeper, state: State, loop: _Loop, plan: Plan, reporter: Reporter
) -> int | None:
    """Iterate to the end; the signal that stopped it, if one did."""
    began = time.monotonic()
    deadline = math.inf if plan.minutes is None else began + 60 * plan.minutes
    next_save = began + plan.checkpoint_seconds
    validating = 0.0
    signum = None
    stale = _stale(keeper, loop, plan)
    over = loop.iteration >= plan.iterations or stale
    # The window may begin before a restart, the clock does not.
    started = since = loop.iteration
    expected = 0.0 if over else keeper.expect_memory(learner, state)
    recorded = time.monotonic()
    while not over:
        loop.window.append(_floats(learner.step(state, loop.iteration)))
        loop.iteration += 1
        now = time.monotonic()
        if loop.iteration == started + 1:
            keeper.check_memory(expected)
        signum, late, due = keeper.agree(
            state, loop.iteration, late=now >= deadline, due=now >= next_save
        )
        over = loop.iteration >= plan.iterations or late or signum is not None
        # Whatever the signal: nobody resumes a run whose iterations are done.
        done = loop.iteration >= plan.iterations
        validates = loop.iteration % plan.validate_every == 0 or done or (late and signum is None)
        if validates or loop.iteration % plan.log_every == 0:
            record = _means(loop.window)
            record["seconds.iteration"] = (now - recorded) / (loop.iteration - since)
            loop.window.clear()
            reporter.update(loop.iteration, record)
            _watch(learner, loop, record, reporter)
            metrics = _validate(learner, state) if validates else {}
            keeper.log({"iteration": loop.iteration, **record, **metrics})
            if validates:
                keeper.keep_best(learner, _snapshot(state, loop), metrics)
                validating += time.monotonic() - now
                stale = _stale(keeper, loop, plan)
                over = over or stale
            recorded, since = time.monotonic(), loop.iteration
        if due and not over:
            keeper.save(_snapshot(state, loop))
            next_save = time.monotonic() + plan.checkpoint_seconds
        fault_point("train:iteration")
    elapsed = time.monotonic() - began
    if validating > max(0.1 * elapsed, 10.0):
        reporter.say(f"validation took {validating / elapsed:.0%} of the time; validate less often")
    if signum is None and loop.iteration < plan.iterations:
        patience = f"validation has not improved for {plan.patience} iterations (--patience)"
        reporter.say(patience if stale else f"ended after {plan.minutes} minutes (--minutes)")
    return signum


def _stale(keeper: Keeper, loop: _Loop, plan: Plan) -> bool:
    """Whether validation has not improved for longer than the plan has patience."""
    if plan.patience is None:
        return False
    # Asked again when a run is resumed between validations.
    validated = loop.iteration - loop.iteration % plan.validate_every
    best = keeper.best
    return keeper.ranks.first(best is not None and validated - best.iteration >= plan.patience)


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


def _watch(learner: Learner, loop: _Loop, record: dict[str, float], reporter: Reporter) -> None:
    """Warn once when adaptation has not helped for a while."""
    before, after = (record.get(name) for name in learner.shown)
    if before is None or after is None:
        return
    loop.stalled = 0 if gain(learner, before, after) > 0 else loop.stalled + 1
    if loop.stalled == STALLED_RECORDS:
        reporter.say(
            f"warning: adaptation has not helped in the last {STALLED_RECORDS} records "
            f"(iteration {loop.iteration})"
        )


def _validate(learner: Learner, state: State) -> dict[str, float]:
    fault_point("train:validate")
    metrics = learner.validate(state)
    return {f"validation.{name}": float(value) for name, value in metrics.items()}
