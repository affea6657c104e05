"""The directory of a run while it is written: opened by one process, saved to, resumed.

    config.json  metrics.jsonl  events.out.tfevents.*  best.json  owner.json  failures/
    checkpoints/00000400/{params.npz, optimizer.npz, state.json, manifest.json}

The rename of a checkpoint commits everything: `best.json` is derived from the newest checkpoint
and metrics.jsonl is synced before it and cut back to it, so a kill at any time loses nothing that
was acknowledged and repeats nothing.
"""

import contextlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from metarl.errors import CheckpointError, NonFiniteError, RunWarning, SaveError
from metarl.log import Log, Settings

from . import documents, files, lock
from .checkpoint import Best, Snapshot, directory_name, write_checkpoint
from .failures import keep_failure
from .faults import fault_point
from .layout import BEST, CHECKPOINTS
from .metrics import METRICS, cut_metrics
from .survey import explain, survey
from .versions import changes

ATTEMPTS = 3  # consecutive failures to save before a run gives up


class Run:
    """An open run directory, locked by this process; use it as a context manager.

    Attributes:
        path: the directory.
        config: the run's config, as config.json holds it.
        best: the best checkpoint so far by `save_best`, or None; also when that failed, since the
            next save does it first.
    """

    def __init__(
        self,
        path: Path,
        descriptor: int,
        config: dict[str, Any],
        *,
        fresh: bool,
        tensorboard: bool,
    ) -> None:
        self.path = path
        self.config = config
        self._best: Best | None = None
        self._unsaved: tuple[Snapshot, Best] | None = None  # a best that could not be saved yet
        self._lock = descriptor
        self._tensorboard = tensorboard
        self._log = Log(path / METRICS, tensorboard=tensorboard) if fresh else None
        self._saved: dict[int, Best | None] = {}  # good checkpoints on disk, and the best then
        self._failures = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the log and let go of the lock; nothing more is saved."""
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._lock >= 0:
            lock.release(self._lock)
            self._lock = -1

    @property
    def best(self) -> Best | None:
        """The best checkpoint so far, see the class."""
        return self._best if self._unsaved is None else self._unsaved[1]

    def load(self) -> Snapshot | None:
        """Go back to the newest checkpoint that verifies; None to start at iteration 0.

        metrics.jsonl and best.json are cut back to it. Newer checkpoints, which are damaged, are
        renamed ``damaged-...`` with one warning each, since the run will now save those iterations
        anew; nothing is deleted.

        Raises:
            CheckpointError: there are checkpoints, and none verifies; nothing has changed.
            InputError: metrics.jsonl is damaged.
            SaveError: the directory cannot be written.
        """
        good, bad = survey(self.path, self.config)
        if bad and not good:
            raise CheckpointError(f"no checkpoint of {self.path} verifies: {explain(bad)}")
        newest = max(good.values(), key=lambda c: c.snapshot.iteration, default=None)
        iteration = -1 if newest is None else newest.snapshot.iteration
        if newest is not None and not newest.resumable:
            raise CheckpointError(
                f"{self.path} is a finished run without optimizer state: start a new one from "
                f"{self.path / CHECKPOINTS / directory_name(iteration)}"
            )
        fault_point("load:cut")
        cut_metrics(self.path / METRICS, iteration)
        messages = []
        for number, error in bad.items():
            if number > iteration:
                aside = files.set_aside(self.path / CHECKPOINTS / directory_name(number))
                messages.append(f"skipped {error}; kept as {aside.name}")
        self._best = None if newest is None else newest.best
        self._saved = {number: checkpoint.best for number, checkpoint in good.items()}
        self._log = Log(self.path / METRICS, after=iteration, tensorboard=self._tensorboard)
        self._tidy()
        if newest is not None and (changed := changes(newest.versions)):
            messages.append(
                f"{self.path} was saved under other versions ({changed}): it goes on, but not bit "
                "for bit as it would have"
            )
        for message in messages:
            warnings.warn(message, RunWarning, stacklevel=2)
        return None if newest is None else newest.snapshot

    def log(self, record: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl and its points to TensorBoard; see `metarl.log.Log`.

        Call it once for each iteration that is logged, before that iteration is saved. A full disk
        raises nothing here: the line waits, and the next `save` needs it written.

        Args:
            record: ``"iteration"``, how many are complete, and the numbers by tag.

        Raises:
            ValueError: the record names no iteration, or one that has been logged already.
        """
        values = dict(record)
        if "iteration" not in values:
            raise ValueError("the record has no 'iteration': how many are complete")
        self._opened_log().write(values.pop("iteration"), values)

    def describe(self, settings: Settings) -> None:
        """Tell the TensorBoard view what the run was made with, before anything is logged."""
        self._opened_log().settings = settings

    def save(self, snapshot: Snapshot) -> None:
        """Save a checkpoint; on return it survives a kill and a power cut.

        Older checkpoints are then removed but for the last two and the best ones these name.
        Saving the iteration saved last once more does nothing.

        Raises:
            SaveError: it was not saved, and the older checkpoints are intact: train on and try
                again unless `gives_up`.
            NonFiniteError: the snapshot holds a number that is not finite.
        """
        if self._unsaved is not None:
            self._save(*self._unsaved)
            self._unsaved = None
        self._save(snapshot, self._best)

    def save_best(self, snapshot: Snapshot, metric: str, value: float) -> None:
        """`save` a checkpoint that is the best so far; compare with `best` before calling this.

        Validate before saving: an iteration that is saved already cannot become the best.

        Args:
            snapshot: as for `save`.
            metric: the validation metric's tag.
            value: its value, finite.
        """
        best = Best(snapshot.iteration, metric, float(value))
        self._unsaved = None
        try:
            self._save(snapshot, best)
        except SaveError:
            self._unsaved = snapshot, best
            raise

    @property
    def gives_up(self) -> bool:
        """Whether saving has failed `ATTEMPTS` times in a row: the run must end."""
        return self._failures >= ATTEMPTS

    def _save(self, snapshot: Snapshot, best: Best | None) -> None:
        log = self._opened_log()
        last = max(self._saved, default=-1)
        if snapshot.iteration == last and best == self._best:
            return
        if snapshot.iteration <= last:
            raise ValueError(f"iteration {snapshot.iteration} is not after {last}, saved last")
        try:
            with files.saving(self.path):
                held = lock.holds(self._lock, self.path)
        except SaveError:
            self._failures += 1
            raise
        if not held:
            self._failures = ATTEMPTS
            raise SaveError(
                f"{self.path} was moved, removed or made anew by others while it was written to: "
                "nothing more is saved; where it was moved to, it can be resumed"
            )
        try:
            self._write(log, snapshot, best)
        except SaveError:
            self._failures += 1
            raise
        self._failures = 0
        self._best = best
        self._saved[snapshot.iteration] = best
        fault_point("save:best")
        self._tidy()

    def _write(self, log: Log, snapshot: Snapshot, best: Best | None) -> None:
        with files.saving(self.path / METRICS, log.waiting):
            log.flush()
            if log.fileno() >= 0:
                files.sync(log.fileno())
                files.sync_directory(self.path)  # which may have the record's name since now
        parent = self.path / CHECKPOINTS
        unacknowledged = parent / directory_name(snapshot.iteration)
        with files.saving(unacknowledged):
            if unacknowledged.exists():  # renamed, but the parent could not be synced
                files.remove_tree(unacknowledged)
        write_checkpoint(parent, snapshot, config=self.config, best=best)

    def _tidy(self) -> None:
        """Remove the checkpoints nobody needs any more, then make best.json name the best.

        In this order, since on a full disk the first makes room for the second; the checkpoint
        that an outdated best.json names is still among those the last two name.
        """
        newest = sorted(self._saved)[-2:]
        kept = {*newest, *(best.iteration for n in newest if (best := self._saved[n]))}
        view = self.path / BEST
        try:
            with files.saving(view):
                for iteration in sorted({*self._saved} - kept):
                    with contextlib.suppress(FileNotFoundError):  # somebody was faster
                        files.remove_tree(self.path / CHECKPOINTS / directory_name(iteration))
                    del self._saved[iteration]
                if self._best is None:
                    view.unlink(missing_ok=True)
                    return
                text = documents.dumps(self._best._asdict(), BEST)
                if not view.exists() or files.read(view) != text:
                    files.replace(view, text)
        except SaveError as error:  # the checkpoint itself is safe; this is done again next time
            warnings.warn(f"{error}", RunWarning, stacklevel=4)

    def keep_failure(self, iteration: int, error: NonFiniteError) -> Path | None:
        """Keep the arrays of a `NonFiniteError` as ``failures/<iteration>.npz``.

        They may hold NaN and infinities, and nothing loads them back. None when there are none, or
        when they cannot be written: what is being reported matters more.
        """
        return keep_failure(self.path, directory_name(iteration), error)

    def _opened_log(self) -> Log:
        if self._log is None:
            raise RuntimeError("a resumed run must be loaded first, and a closed one is closed")
        return self._log
