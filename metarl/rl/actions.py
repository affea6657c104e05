"""From the actions of policies to those of environments."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from metarl.errors import InputError

from .distributions import Distribution, Gaussian


def action_map(space: Space[Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Map of policy actions ``(row, ...)`` to what the environment takes.

    ``Box`` of floats: [-1, 1] goes affinely to the action's range, and what lies outside is
    clipped; a dimension without two finite bounds is not scaled, only clipped to the one it may
    have. ``Discrete``: counts from its start.

    Raises:
        InputError: any other space.
    """
    if isinstance(space, Discrete):
        return functools.partial(_counted_from, start=space.start, kind=space.dtype)
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise InputError(f"the action space is {space}; the sampler takes flat Box and Discrete")
    if not np.issubdtype(space.dtype, np.floating):
        raise InputError(
            f"the action space is {space}, not of floats: make it a Box of float32 and round in "
            "the environment"
        )
    low, high = space.low, space.high
    with np.errstate(over="ignore"):
        bounded = np.isfinite(high - low)  # bounds as wide as the type are none
    scale, centre = np.ones_like(low), np.zeros_like(low)
    scale[bounded] = (high[bounded] - low[bounded]) / 2
    centre[bounded] = (high[bounded] + low[bounded]) / 2
    return functools.partial(_scaled, scale=scale, centre=centre, low=low, high=high)


# Functions of the module, so that policies can be pickled.
def _counted_from(actions: NDArray[Any], *, start: Any, kind: Any) -> NDArray[Any]:
    counted: NDArray[Any] = (actions + start).astype(kind)
    return counted


def _scaled(actions: NDArray[Any], *, scale: Any, centre: Any, low: Any, high: Any) -> NDArray[Any]:
    scaled: NDArray[Any] = np.clip(centre + scale * actions.astype(low.dtype), low, high)
    return scaled


def check_kind(distribution: Any) -> None:
    """Refuse what is no distribution.

    Args:
        distribution: what a policy returned.

    Raises:
        InputError: it is none.
    """
    if not isinstance(distribution, Distribution):
        raise InputError(
            f"the policy returned a {type(distribution).__name__}: a policy returns "
            "metarl.rl.Gaussian or metarl.rl.Categorical, NamedTuples of tensors"
        )


def check_actions(distribution: Any, space: Space[Any]) -> None:
    """Refuse distributions that are not over an environment's actions.

    Args:
        distribution: what a policy returned, ``(..., action)``.
        space: the environment's.

    Raises:
        InputError: they are not.
    """
    check_kind(distribution)
    made, continuous = distribution[0].shape[-1], isinstance(distribution, Gaussian)
    if isinstance(space, Discrete):
        fits = not continuous and made == space.n
    else:
        fits = continuous and space.shape == (made,)
    if not fits:
        kind = f"vectors of {made}" if continuous else f"one of {made} actions"
        raise InputError(f"the policy's actions are {kind}; the environment takes {space}")
