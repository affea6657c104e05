"""`metarl check`: whether an environment keeps the contract that training on it needs."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium

import metarl_envs
from metarl.errors import InputError
from metarl.rl.making import not_found

from ..graphics import backend_refusals
from ..options import parse, positionals


@dataclass(frozen=True)
class CheckCommand:
    """Check a task environment: `metarl check my_package:MyTask-v0`."""


def run(argv: Sequence[str]) -> int:
    """Print the faults, each with how to mend it; 2 if there are any."""
    asks = bool(argv) and argv[0] in ("-h", "--help")
    names, rest = ([], argv) if asks else positionals(argv, "ENVIRONMENT")
    parse(CheckCommand, rest, prog="metarl check ENVIRONMENT", default=CheckCommand())
    if len(names) != 1:
        raise InputError(f"ENVIRONMENT: one is checked at a time, got {' '.join(names)}")
    env = make(names[0])
    try:
        faults = metarl_envs.check_task_env(env)
    finally:
        env.close()
    for fault in faults:
        print(f"{names[0]}: {fault}")
    if not faults:
        print(f"{names[0]}: passes")
    return 2 if faults else 0


def make(name: str) -> gymnasium.Env:
    """Environment of a gymnasium id, ``module:Id-v0`` or an id that is registered.

    Raises:
        InputError: there is none, or it cannot be built.
    """
    module, colon, _ = name.partition(":")
    try:
        with backend_refusals():
            if colon:
                importlib.import_module(module)
            return gymnasium.make(name)
    except (gymnasium.error.UnregisteredEnv, ImportError) as error:
        raise InputError(f"ENVIRONMENT: {not_found(name, error)}") from None
    except (gymnasium.error.Error, TypeError, ValueError) as error:
        raise InputError(f"ENVIRONMENT: {name} cannot be made: {error}") from None
