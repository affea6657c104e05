"""Vector environments made for a sampler."""

from typing import Any

import gymnasium
from gymnasium.error import Error as GymnasiumError
from gymnasium.vector import VectorEnv

from metarl.checks import check_counts
from metarl.devices import available_cores
from metarl.errors import InputError, first_line


def make_halves(
    env_id: str, *, tasks: int, episodes: int, threads: int | None = None, **options: Any
) -> list[VectorEnv[Any, Any, Any]]:
    """Native environments for whole tasks, in two parts that a sampler runs side by side.

    Each has half of the physics threads: while one part waits for its policy the other computes.
    On two cores that took 0.93 of the speed of the physics alone, one batch on two threads 0.69.
    On one thread there is one part.
    An environment whose ``threaded`` is False computes on the thread that steps it, and stays
    whole: two parts would take turns. On two cores navigation is sampled 1.8 times as fast so.

    Args:
        env_id: registered with a vector environment of its own that takes ``threads``.
        tasks: of a batch.
        episodes: per task.
        threads: physics threads in all; by default, or 0, the cores of this process.
        options: for ``gymnasium.make_vec``.

    Raises:
        InputError: no such environment, one that takes no threads, or no tasks or episodes.
    """
    threads = threads or available_cores()
    check_counts(tasks=tasks, episodes=episodes, threads=threads)
    first, second = tasks - tasks // 2, tasks // 2

    def make(part: int, threads: int) -> VectorEnv[Any, Any, Any]:
        return gymnasium.make_vec(env_id, num_envs=part * episodes, threads=threads, **options)

    try:
        if not second or threads == 1:
            return [make(tasks, threads)]
        half = make(first, threads - threads // 2)
        if getattr(half.unwrapped, "threaded", True):
            return [half, make(second, threads // 2)]
        half.close()
        return [make(tasks, threads)]
    except (GymnasiumError, ImportError) as error:
        raise not_found(env_id, error) from None
    except TypeError as error:
        if "'threads'" not in str(error):
            raise  # an option of the caller's own
        raise InputError(
            f"{env_id}: {first_line(error)} (halves are of environments with a vector environment "
            "of their own that takes threads; others are made by gymnasium.make_vec)"
        ) from None


def not_found(env_id: str, error: Exception) -> InputError:
    """What to say where gymnasium knows no environment of an id, or cannot import its package."""
    package = "metarl_envs" if env_id.startswith("metarl/") else "package"
    return InputError(
        f"{env_id}: {first_line(error)} (an id is found once its {package} is imported, or as "
        f"{package}:id where that is installed or in the working folder)"
    )
