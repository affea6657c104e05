"""Worker processes of gymnasium's `AsyncVectorEnv`: signals and time limits."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv

from metarl.errors import WorkerError


def apart(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Wrapper for environments of worker processes: out of reach of signals to their owner's group.

    Ctrl-C and hang-ups go to all processes of a terminal, ``timeout`` signals its whole group; the
    owner could then not finish its iteration. Workers end when it does, or closes its end.
    """
    if multiprocessing.current_process().daemon:  # not in the owner, which makes one to look at
        os.setpgid(0, 0)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_DFL)
    return env


@contextmanager
def receiving(env: AsyncVectorEnv, timeout: float, doing: str) -> Iterator[None]:
    """Turn a silent or dead worker into an error, and end the others, which wait for nobody."""
    try:
        yield
    except (BrokenPipeError, ConnectionResetError, EOFError):
        for process in env.processes:
            process.join(0.1)
        dead = [i for i, process in enumerate(env.processes) if not process.is_alive()]
        if not dead:
            raise  # the environment's own
        _end(env)
        raise WorkerError(
            f"environment worker {dead[0]} died while {doing}: look for a crash in the environment,"
            " or memory that ran out"
        ) from None
    except multiprocessing.TimeoutError:
        silent = [i for i, pipe in enumerate(env.parent_pipes) if not pipe.poll()]
        _end(env)
        raise WorkerError(
            f"environment worker {silent[0] if silent else '?'} gave no answer within {timeout:g} s"
            f" while {doing}: the workers were ended; look for a hang in the environment or raise"
            " the time limit"
        ) from None
    except BaseException as error:
        if not isinstance(error, Exception):  # given up while they work: nobody will ask again
            _end(env)
        raise


def _end(env: AsyncVectorEnv) -> None:
    for process in env.processes:
        process.kill()
    env.close(terminate=True)


def limited(call: Callable[[], None], timeout: float) -> None:
    """Call what waits without limit on a thread, and wait for that one only so long.

    Raises:
        multiprocessing.TimeoutError: it is not done by then; the thread is left to itself.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        raise multiprocessing.TimeoutError
    if failures:
        raise failures[0]
