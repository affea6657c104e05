"""Options of meta-policies that exclude each other, or do nothing together."""

import warnings
from typing import Any

from metarl.errors import InputError, RunWarning

from ..configs.rl import Config, EnvConfig
from ..contradictions import check_inner_options


def check_options(config: Config) -> None:
    """Refuse options of meta-policies that contradict each other.

    Raises:
        InputError: naming the option to change.
    """
    check_inner_options(config, config.inner_steps)
    if config.sampling_correction != "off" and config.update == "promp":
        raise InputError("--sampling-correction: goes with --update trpo or adam")
    if config.inner_steps > 0 and config.evaluation_lr is not None:
        raise InputError(
            "--evaluation-lr: goes with --inner-steps 0; a trained inner loop keeps its step size"
        )
    if config.learned_lr == "signal" and config.inner_lr == 0:
        raise InputError("--inner-lr: --learned-lr signal measures steps, which need one above 0")
    if config.signal_after and config.learned_lr != "signal":
        raise InputError("--signal-after: goes with --learned-lr signal")
    if config.min_std > config.init_std:
        raise InputError(
            f"--min-std {config.min_std:g}: is above --init-std {config.init_std:g}, and below its "
            "floor a standard deviation does not learn"
        )
    check_range("--env.task-range", config.env.task_range)


def check_range(option: str, given: tuple[float, float] | None) -> None:
    """Refuse a range without width.

    Raises:
        InputError: naming the option.
    """
    if given is not None and not given[0] < given[1]:
        raise InputError(f"{option} {given[0]:g} {given[1]:g}: low must be below high")


def warn_of_options(config: Config) -> None:
    """Warn of options that are valid and yet do nothing together."""
    if config.learned_lr == "signal" and 0 < config.iterations <= config.signal_after:
        warnings.warn(
            f"--signal-after {config.signal_after} is not reached within --iterations "
            f"{config.iterations}: all step sizes stay at {config.inner_lr:g}",
            RunWarning,
            stacklevel=2,
        )


def warn_of_horizon(env: EnvConfig, limit: int | None) -> None:
    """Warn where rollouts keep room for time steps that no episode has.

    Args:
        env: the configured one.
        limit: most steps of its own episodes; None where it tells none.
    """
    if limit is not None and limit < env.horizon:
        warnings.warn(
            f"episodes of {env.id} end after {limit} steps, and room is kept for --env.horizon "
            f"{env.horizon}: --env.horizon {limit} takes less time and memory",
            RunWarning,
            stacklevel=2,
        )


def warn_of_standing_still(config: Config, metrics: dict[str, Any]) -> None:
    """Warn where no task takes an inner step, since none has anything left to gain."""
    if config.best_reward is not None and config.inner_steps and metrics["inner_grad_norm"] == 0:
        warnings.warn(
            f"no task takes an inner step: their mean rewards are at least --best-reward "
            f"{config.best_reward:g}, the best that a time step is said to earn; "
            "give the best that one can earn, or None",
            RunWarning,
            stacklevel=2,
        )
