"""Named fault points: places where a test may kill the process or make a call fail.

They do nothing unless a test switches one on with `injected`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

SAVE_POINTS = (
    "save:begin",  # nothing on disk yet
    "save:directory",  # the temporary directory exists
    "save:params",  # params.npz is whole
    "save:optimizer",
    "save:state",
    "save:manifest",  # everything is whole under the temporary name
    "save:renamed",  # under its final name; the parent directory is not yet synced
    "save:best",  # durable; old checkpoints and best.json not yet seen to
    "save:removing",  # an old checkpoint renamed, not yet removed
)
POINTS = (
    *SAVE_POINTS,
    "file:half",  # half of a file's bytes written
    "open:locked",  # the lock is held; nothing written yet
    "load:cut",  # a checkpoint is chosen; metrics.jsonl not yet cut back
    "train:iteration",  # an iteration is complete, logged and perhaps saved
    "train:validate",
    "evaluate:tasks",
)

_active: dict[str, Callable[[], object]] = {}


def fault_point(name: str) -> None:
    """Run the action a test has attached to `name`; nothing otherwise."""
    if _active:
        action = _active.get(name)
        if action is not None:
            action()


@contextmanager
def injected(name: str, action: Callable[[], object], *, after: int = 0) -> Iterator[None]:
    """Run `action` whenever `name` is passed, from pass number `after` (0 is the first) on.

    Raises:
        ValueError: `name` is not in `POINTS`.
    """
    if name not in POINTS:
        raise ValueError(f"no fault point {name!r}; there are {', '.join(POINTS)}")
    passes = 0

    def counted() -> None:
        nonlocal passes
        passes += 1
        if passes > after:
            action()

    _active[name] = counted
    try:
        yield
    finally:
        del _active[name]
