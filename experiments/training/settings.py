"""What a run was made with, as TensorBoard's tab of hyperparameters takes it."""

from dataclasses import asdict
from typing import Any

from metarl.log import Settings

from ..family import Learner


def settings(config: Any, learner: Learner, *, seed: int) -> Settings:
    """The configuration's fields by name, nested ones as ``env.id``.

    Args:
        config: dataclass of the experiment.
        learner: says which metrics runs are compared by.
        seed: of the run.
    """
    after = learner.shown[1]
    return Settings({"seed": seed, **_flat(asdict(config))}, (after, f"validation.{after}"))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, float | bool | str]:
    flat: dict[str, float | bool | str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float | str):
            flat[prefix + name] = value
        else:
            flat[prefix + name] = str(value)  # tuples and None
    return flat
