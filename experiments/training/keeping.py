"""What training keeps and ranks agree on: the first one writes and decides, the others wait."""

import math
import os
import signal
import zlib
from pathlib import Path
from typing import NamedTuple

import torch

from metarl.distributed import Ranks
from metarl.errors import NonFiniteError, RankError, SaveError
from metarl.runs import Best, Run, Snapshot, keep_failure

from ..family import Learner, State
from ..memory import FACTOR, expected, peak_bytes
from ..progress import Reporter
from .signals import StopRequest


class Agreed(NamedTuple):
    """What all ranks know after an iteration.

    Attributes:
        signum: a signal that any of them got.
        late: whether the time is up.
        due: whether a checkpoint is due.
    """

    signum: int | None
    late: bool
    due: bool


class Keeper(NamedTuple):
    """The run directory as the training loop sees it, the same on every rank.

    Attributes:
        run: open run directory; its path on all ranks but the first.
        reporter: told about progress.
        stop: the signal that came.
        ranks: all of them.
    """

    run: Run | Path
    reporter: Reporter
    stop: StopRequest
    ranks: Ranks

    @property
    def best(self) -> Best | None:
        """The best checkpoint so far; known to the first rank only."""
        return self.run.best if isinstance(self.run, Run) else None

    def agree(self, state: State, iteration: int, *, late: bool, due: bool) -> Agreed:
        """Take the first rank's clock and anybody's signal, and see that all hold the same theta.

        Raises:
            RankError: they do not.
        """
        signum = self.stop.signum or 0
        if self.ranks.size == 1:
            return Agreed(signum or None, late, due)
        if os.getppid() != self.ranks.parent:  # killed, the launcher cannot end its ranks
            signum = signum or signal.SIGHUP
        ours = torch.tensor([signum, late, due, iteration, _checksum(state)])
        all_ = self.ranks.all_gather(ours)
        other = (all_[:, 3:] != all_[0, 3:]).any(1)
        if other.any():
            raise RankError(
                f"rank {int(other.nonzero()[0])} has other parameters than rank 0 after iteration "
                f"{iteration}: ranks need the same data, versions and kind of machine"
            )
        return Agreed(int(all_[:, 0].max()) or None, bool(all_[0, 1]), bool(all_[0, 2]))

    def begin(self, snapshot: Snapshot) -> None:
        """Save the state that a new run begins with.

        Raises:
            SaveError: it cannot be written.
        """

        def save() -> None:
            if isinstance(self.run, Run):
                with self.stop.shield():
                    self.run.save(snapshot)

        self.ranks.together(save)

    def expect_memory(self, learner: Learner, state: State) -> float:
        """Say what an iteration will take, before the first; bytes at most on a rank."""
        here, there = expected(learner.needs(state), learner.machine, peak_bytes())
        most = self.ranks.all_gather(torch.tensor([here, there])).amax(0).tolist()
        apart = f", and {_gigabytes(most[1])} on {learner.machine.device}" if most[1] else ""
        whose = " on a rank" if self.ranks.size > 1 else ""
        self.reporter.say(f"memory at its peak: about {_gigabytes(most[0])}{apart}{whose}")
        return float(most[0])

    def check_memory(self, expected: float) -> None:
        """Say so where the first iteration took much more than was expected."""
        most = float(self.ranks.all_gather(torch.tensor(peak_bytes())).max())
        if most > FACTOR * expected:
            self.reporter.say(
                f"warning: memory at its peak was {_gigabytes(most)}, not as expected"
            )

    def log(self, record: dict[str, float]) -> None:
        """Log a record."""
        if isinstance(self.run, Run):
            with self.stop.shield():  # a line is written once
                self.run.log(record)

    def save(self, snapshot: Snapshot, best: tuple[str, float] | None = None) -> bool:
        """Save a checkpoint, perhaps as the best; false when it failed and is to be tried again.

        Raises:
            SaveError: it failed for the last time.
        """
        return self.ranks.first(self.ranks.together(lambda: self._save(snapshot, best)))

    def _save(self, snapshot: Snapshot, best: tuple[str, float] | None) -> bool:
        if not isinstance(self.run, Run):
            return True
        try:
            with self.stop.shield():
                if best is None:
                    self.run.save(snapshot)
                else:
                    self.run.save_best(snapshot, *best)
        except SaveError as error:
            if self.run.gives_up:
                raise
            self.reporter.say(f"warning: {error}; training goes on, and it is tried again")
            return False
        return True

    def keep_best(self, learner: Learner, snapshot: Snapshot, metrics: dict[str, float]) -> None:
        """Save the snapshot as the best where it is; an infinite loss never is."""
        after = learner.shown[1]
        name = f"validation.{after}"
        value = metrics[name]
        held = self.best
        best = self.ranks.first(
            math.isfinite(value) and (held is None or gain(learner, held.value, value) > 0)
        )
        if best:
            self.save(snapshot, (name, value))
        label = after.replace("_", " ")
        note = " (best so far)" if best else ""
        self.reporter.say(f"validation at {snapshot.iteration}: {label} {value:.4g}{note}")

    def keep_failure(self, iteration: int, error: NonFiniteError) -> None:
        """Keep the batch behind an error; each rank has files of its own."""
        if isinstance(self.run, Run):
            self.run.keep_failure(iteration, error)
        else:
            keep_failure(self.run, f"{iteration:08d}-rank-{self.ranks.rank}", error)


def gain(learner: Learner, before: float, after: float) -> float:
    """By how much the second value is better than the first."""
    return after - before if learner.higher_is_better else before - after


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def _checksum(state: State) -> int:
    total = 0
    for value in state.params.values():
        total = zlib.crc32(value.detach().cpu().numpy().tobytes(), total)
    return total
