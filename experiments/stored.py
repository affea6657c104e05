"""What a run's config.json says, checked like options of the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl.errors import InputError

from .catalog import Experiment
from .configs.bounds import check_ranges, check_types
from .machine import Machine
from .options import overlay


def stored(
    path: Path, experiment: Experiment, values: Mapping[str, Any]
) -> tuple[Any, Machine, int]:
    """The experiment's configuration, the machine and the seed of a run.

    Raises:
        InputError: something is missing, unknown, of another type or out of range.
    """
    try:
        config = overlay(experiment.configs().Config(), values["config"])
        machine = Machine(**values["machine"])
        seed = values["seed"]
        if type(seed) is not int:
            raise ValueError(f"--seed: must be a whole number, got {seed!r}")
        check_types(config)
        check_types(machine)
        check_ranges(config)
    except (KeyError, TypeError, ValueError) as error:
        told = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: its config.json is not of this version: {told}") from None
    return config, machine, seed
