"""Errors whose cause lies outside the program, each with the exit code of the command line."""

import functools
from typing import Any


class MetarlError(Exception):
    """An error reported in one line: what failed, where, and what to do.

    Attributes:
        exit_code: the command line's exit status for this kind of error.
    """

    exit_code = 1


class RunWarning(UserWarning):
    """Something about a run directory went wrong and was put right; one line, as for errors."""


class InputError(MetarlError, ValueError):
    """Bad input: an option, a file or an argument. Nothing was created or changed."""

    exit_code = 2


class NoDataError(InputError):
    """A data set is not where it was looked for; the message says how to obtain it."""


class CheckpointError(MetarlError):
    """A checkpoint (or every one of a run) does not verify."""

    exit_code = 3


class SaveError(MetarlError, OSError):
    """State could not be written; what was saved before is intact."""

    exit_code = 4


class NonFiniteError(MetarlError, FloatingPointError):
    """A NaN or an infinity appeared in training.

    Attributes:
        place: what was not finite, such as ``"reward"`` or ``"inner gradient"``.
        task: index of the task in the meta-batch, or None where no single task is at fault.
        batch: arrays worth keeping for a post-mortem, by name.
    """

    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        place: str,
        task: int | None = None,
        batch: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.place = place
        self.task = task
        self.batch = batch or {}

    def __reduce__(self) -> Any:
        # Exceptions are pickled by their arguments in order, of which these are none.
        again = functools.partial(type(self), place=self.place, task=self.task, batch=self.batch)
        return again, self.args


class RankError(MetarlError):
    """A rank of a distributed run failed or fell silent."""

    exit_code = 6


class WorkerError(MetarlError):
    """A worker process of an environment fell silent or died."""

    exit_code = 6


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
