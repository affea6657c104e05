"""MuJoCo's log, silenced while this package's own physics runs.

MuJoCo prints a warning and appends to MUJOCO_LOG.TXT in the working directory whenever a simulation
diverges. Here divergence is detected and flagged row by row, so the log would only litter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import mujoco

_lock = Lock()
_depth = 0
_saved: mujoco.MjLogConfig | None = None


@contextmanager
def quiet_mujoco() -> Iterator[None]:
    """Silence MuJoCo's console and file log inside the block; nests, and may span threads.

    The setting is MuJoCo's own and global to the process; the configuration found on the way in is
    put back when the last block ends.
    """
    global _depth, _saved
    with _lock:
        if _depth == 0:
            _saved = mujoco.MjLogConfig.get()
            silent = mujoco.MjLogConfig.get()
            silent.logto_console = silent.logto_file = False
            silent.set()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0 and _saved is not None:
                _saved.set()
