"""MuJoCo's warnings, silenced while this package's own physics runs.

MuJoCo prints a warning and appends to MUJOCO_LOG.TXT in the working directory whenever a simulation
diverges. Here divergence is detected and flagged row by row, so the log would only litter.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import mujoco

_lock = Lock()
_depth = 0
_saved: Callable[[str], None] | None = None


@contextmanager
def quiet_mujoco() -> Iterator[None]:
    """Take MuJoCo's warnings inside the block and drop them; nests, and may span threads.

    The handler is MuJoCo's own and global to the process; the one found on the way in is put back
    when the last block ends.
    """
    global _depth, _saved
    with _lock:
        if _depth == 0:
            _saved = mujoco.get_mju_user_warning()
            mujoco.set_mju_user_warning(_drop)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                mujoco.set_mju_user_warning(_saved)


def _drop(_message: str) -> None:
    pass
