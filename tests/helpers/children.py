"""Forked children for fault tests: they speak through a pipe, so that no test has to sleep."""

import os
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable

TIMEOUT_SECONDS = 60.0

Tell = Callable[[str], None]


class Child:
    """A forked process; `read` its messages, `kill` it, `wait` for its exit status."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe = pipe
        self._buffer = b""

    def read(self, timeout: float = TIMEOUT_SECONDS) -> str | None:
        """The next message; None when the child has ended.

        Raises:
            TimeoutError: neither happened in time.
        """
        until = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if not select.select([self._pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"child {self.pid} is silent")
            data = os.read(self._pipe, 65536)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def rest(self) -> list[str]:
        """All further messages, until the child has ended."""
        messages = []
        while (message := self.read()) is not None:
            messages.append(message)
        return messages

    def expect(self, message: str) -> None:
        """Read on until this message comes."""
        while (heard := self.read()) != message:
            assert heard is not None, f"the child ended before saying {message!r}"

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Exit status once it has ended, as Python gives it: minus the signal for a killed one."""
        self.rest()
        os.close(self._pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def fork(work: Callable[[Tell], int | None]) -> Child:
    """Run `work(tell)` in a forked child, which exits with its result (None: 0).

    An exception exits with its `exit_code`, or 1, and leaves its traceback on standard error.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numerical libraries have threads
        pid = os.fork()
    if pid:
        os.close(writer)
        return Child(pid, reader)
    status = 1
    try:
        os.close(reader)
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.set_num_threads(1)  # the parent's worker threads do not exist here
        status = work(lambda message: _tell(writer, message)) or 0
    except BaseException as error:
        traceback.print_exc()
        status = getattr(error, "exit_code", 1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _tell(writer: int, message: str) -> None:
    os.write(writer, message.encode() + b"\n")


def die() -> None:
    """Be killed, as by ``kill -9`` or the kernel."""
    os.kill(os.getpid(), signal.SIGKILL)
