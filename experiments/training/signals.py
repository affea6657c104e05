"""Stopping on a signal: finish the iteration, save, and be gone within ten seconds."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from metarl.errors import MetarlError

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# How long an iteration, or its compilation, may go on after the signal before it is abandoned; the
# state is then halfway and the last checkpoint stands.
PATIENCE_SECONDS = 6.0
REPEAT_SECONDS = 1.0


class Abandoned(KeyboardInterrupt):
    """The iteration did not end in time, or a second signal came."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@dataclass
class StopRequest:
    """The signal that came, if any.

    Attributes:
        signum: its number; None until then.
        shielded: while true, nothing is abandoned: a checkpoint is being written.
        due: what runs is to be abandoned.
    """

    signum: int | None = None
    shielded: bool = False
    due: bool = False

    @contextlib.contextmanager
    def shield(self) -> Iterator[None]:
        """Let what runs inside finish; an abandonment that falls due comes afterwards."""
        self.shielded = True
        try:
            yield
        finally:
            self.shielded = False
        if self.due and self.signum is not None:
            raise Abandoned(self.signum)


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM and SIGHUP into a request that the loop looks at.

    Raises:
        Abandoned: from wherever the program is, on a second signal or after `PATIENCE_SECONDS`.
    """
    request = StopRequest()

    def abandon(signum: int) -> None:
        request.due = True
        if not request.shielded:
            raise Abandoned(signum)

    def on_signal(signum: int, _frame: FrameType | None) -> None:
        if request.signum is not None:
            abandon(signum)
        request.signum = signum
        # Again and again after that: an exception raised inside a finaliser is swallowed.
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS, REPEAT_SECONDS)

    def on_alarm(_signum: int, _frame: FrameType | None) -> None:
        abandon(request.signum or signal.SIGINT)

    # A hang-up that is ignored stays so: nohup asks for it. Shells ignore interrupts of all that
    # they start in the background, which says nothing.
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    heard = [signum for signum in STOPPING if not (signum == signal.SIGHUP and ignored)]
    before = {signum: signal.signal(signum, on_signal) for signum in heard}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, on_alarm)
    try:
        yield request
    except Exception as error:
        # Compiled code tells of an exception inside it by one of its own.
        if request.signum is not None and not isinstance(error, MetarlError):
            raise Abandoned(request.signum) from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in before.items():
            signal.signal(signum, handler)
