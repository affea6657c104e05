"""What the observations of an environment and a policy must have in common."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gymnasium import Space
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv

from metarl.errors import InputError, first_line


def observation_length(space: Space[Any]) -> int:
    """Length of the vectors of an observation space.

    Raises:
        InputError: it is not one of vectors.
    """
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise InputError(
            f"the observation space is {space}, not a flat Box: wrap the environment in "
            "gymnasium.wrappers.FlattenObservation"
        )
    return space.shape[0]


def check_alike(envs: Sequence[VectorEnv[Any, Any, Any]]) -> None:
    """Refuse vector environments whose rows observe or act differently.

    Raises:
        InputError: naming the first that differs.
    """
    first, *others = ((env.single_observation_space, env.single_action_space) for env in envs)
    for index, spaces in enumerate(others, 1):
        if spaces != first:
            raise InputError(
                f"envs[{index}] has the spaces {spaces[0]} and {spaces[1]}, envs[0] {first[0]} and "
                f"{first[1]}: give vector environments of one kind"
            )


@contextmanager
def trying(length: int) -> Iterator[None]:
    """A policy is called on observations of this length, which it may not take.

    Raises:
        InputError: it fails.
    """
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            f"the policy fails on observations of length {length}, which the environment gives: "
            f"{first_line(error)}"
        ) from error
