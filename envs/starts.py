"""Starting states of some rows of a batch, without drawing those of all others."""

import numpy as np

from .tasks import Array
from .world import World

# Rows of one random stream. With one stream for all, whoever samples the last tasks would have to
# draw the noise of all before them.
ROWS = 4096


def starts(world: World, rows: range, total: int, rng: np.random.Generator) -> Array:
    """Starting states ``(row, state)`` of ``rows`` out of ``total``, which may run anywhere.

    A row's state depends on ``rng`` and its own number; in a batch of fewer than `ROWS` also on
    ``total``, so that parts start as the whole would only where they are told the same.

    Args:
        world: draws them.
        rows: wanted, consecutive.
        total: of the whole batch, rows that are played but not wanted included.
        rng: of the whole batch; advanced alike whichever rows are wanted.
    """
    head = world.start(min(total, ROWS), rng)
    if total <= ROWS:
        return head[rows.start : rows.stop]
    key = int(rng.integers(2**63))
    parts = []
    for block in range(rows.start // ROWS, -(-rows.stop // ROWS)):
        states = head if block == 0 else world.start(ROWS, np.random.default_rng((key, block)))
        low = max(rows.start - block * ROWS, 0)
        parts.append(states[low : rows.stop - block * ROWS])
    return np.concatenate(parts)
