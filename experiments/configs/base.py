"""What the configuration of a family says of it to commands, evaluations and reports."""

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class FamilyConfig:
    """Base of every family's ``Config``, for all that is not a field of it.

    Attributes:
        metric: what its evaluations measure: loss, return or accuracy.
        counts: whole numbers among the ``variants`` of an evaluation, without which no figure of it
            can be drawn.
        held_out: options of a second evaluation, shipped of runs of the default preset; else none.
        mends: setting -> what to add to an error about it.
    """

    metric: ClassVar[str]
    counts: ClassVar[tuple[str, ...]] = ()
    held_out: ClassVar[dict[str, int]] = {}
    mends: ClassVar[dict[str, str]] = {}

    def check_sizes(self) -> None:
        """Refuse sizes that ask for too much memory together (ValueError)."""

    def task_settings(self, options: Any) -> dict[str, Any]:
        """Settings that make the tasks of an evaluation, or what is earned on them.

        Args:
            options: the family's ``EvaluateOptions``; what they choose is left out.
        """
        del options
        return {}

    def size_settings(self, options: Any) -> dict[str, Any]:
        """Further ones, by which runs of a page may differ, and runs that are compared may not."""
        del options
        return {}

    def unused(self) -> dict[str, str]:
        """Options that have no effect -> the option because of which they have none."""
        return {}

    def suspect(self) -> str | None:
        """What to tell beside an error of the program that a part of the user's may have caused."""
        return None
