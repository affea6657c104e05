"""Checks of what a caller hands to an environment."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def positive(name: str, value: Any) -> int:
    """``value`` as a positive integer.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return int(value)


def finite_actions(given: Any, shape: tuple[int, int]) -> NDArray[Any]:
    """``given`` as an array of actions ``(num_envs, action)``.

    Raises:
        ValueError: another shape, or not finite; the message names the environment.
    """
    actions: NDArray[Any] = np.asarray(given)
    if actions.shape != shape:
        raise ValueError(f"actions have shape {actions.shape}, expected {shape}")
    finite = np.isfinite(actions)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        raise ValueError(f"the action of environment {row} is not finite: {actions[row].tolist()}")
    return actions


def reset_options(
    options: dict[str, Any], num_envs: int
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """``(reset_mask, block)`` of a batch's reset options; defaults: all, ``(0, num_envs)``.

    Raises:
        ValueError: an unknown option, a mask of another shape or type, or a block that does not
            hold the batch.
    """
    unknown = set(options) - {"reset_mask", "block"}
    if unknown:
        raise ValueError(f'unknown reset options {sorted(unknown)}; known: "reset_mask", "block"')
    mask = np.asarray(options.get("reset_mask", np.ones(num_envs, dtype=bool)))
    if mask.dtype != bool or mask.shape != (num_envs,):
        raise ValueError(f"reset_mask must be a bool array of shape ({num_envs},)")
    first, total = options.get("block", (0, num_envs))
    if not 0 <= first <= total - num_envs:
        raise ValueError(f"block ({first}, {total}) does not hold {num_envs} environments")
    return mask, (first, total)
