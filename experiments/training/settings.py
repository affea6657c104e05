"""What a run was made with, as TensorBoard's tab of hyperparameters takes it."""

from dataclasses import asdict
from typing import Any

from metarl.log import Settings

from ..configs.flat import flat
from ..family import Learner


def settings(config: Any, learner: Learner, *, seed: int) -> Settings:
    """The configuration's fields by name, nested ones as ``env.id``.

    Args:
        config: dataclass of the experiment.
        learner: says which metrics runs are compared by.
        seed: of the run.
    """
    after = learner.shown[1]
    fields = {
        ".".join(path): value if isinstance(value, bool | int | float | str) else str(value)
        for path, value in flat(asdict(config))
    }
    return Settings({"seed": seed, **fields}, (after, f"validation.{after}"))
