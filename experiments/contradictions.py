"""Options of any family that exclude each other, or do nothing together."""

import warnings
from collections.abc import Sequence
from typing import Any

from metarl.errors import InputError, RunWarning

from .configs.base import FamilyConfig
from .options import value_of


def check_inner_options(config: Any, trained_steps: int) -> None:
    """Refuse options of the inner loop that contradict each other.

    Args:
        config: any family's.
        trained_steps: inner steps in training.

    Raises:
        InputError: naming the option to change.
    """
    if not config.later_lr_factors:
        raise InputError("--later-lr-factors: give one number at least")
    if trained_steps == 0 and config.learned_lr != "no":
        raise InputError("--learned-lr: no inner step is trained with --inner-steps 0")
    if config.lr_per_step and config.learned_lr not in ("tensor", "element"):
        raise InputError("--lr-per-step: goes with --learned-lr tensor or element")


def warn_of_initial_values(argv: Sequence[str], config: Any, *, step_sizes: bool) -> None:
    """Warn of options that were given for initial values which --from brings.

    Args:
        argv: the options given.
        config: any family's.
        step_sizes: whether the checkpoint has learned step sizes.
    """
    # Those by signal are measured anew, with steps of --inner-lr.
    brought = step_sizes and config.learned_lr != "signal"
    for name in ("--init-std", "--head-scale", *(["--inner-lr"] if brought else [])):
        if value_of(argv, name) is not None:
            text = f"{name} has no effect: the checkpoint of --from has its own values"
            warnings.warn(text, RunWarning, stacklevel=2)


def warn_of_unused(argv: Sequence[str], config: FamilyConfig) -> None:
    """Warn of options that were given and have no effect."""
    for name, cause in config.unused().items():
        if value_of(argv, name) is not None:
            warnings.warn(f"{name} has no effect under {cause}", RunWarning, stacklevel=2)
