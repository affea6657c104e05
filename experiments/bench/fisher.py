"""Speed of ten Fisher products against the meta-gradient."""

from metarl.objective import mean_over_tasks

from ..configs.rl import Config
from ..machine import Machine
from .beside.timing import medians
from .beside.update import CHEETAH, prepare

PRODUCTS = 10


def fisher_bench(
    repetitions: int = 5, config: Config = CHEETAH, machine: Machine | None = None
) -> dict[str, float]:
    """Medians over interleaved repetitions: cheetah velocity, ``fisher_fraction`` 0.1.

    - ``milliseconds``: ten products at one theta, all that they share included.
    - ``fisher/gradient``: against the meta-gradient on all time steps.
    """
    learner, theta, data, few = prepare(config, machine or Machine(device="cpu"))
    objectives, mapping = learner.objectives, learner.mapping
    whole = mean_over_tasks(objectives.surrogate, data, mapping=mapping)
    direction = whole.gradient(theta)[2]

    def fisher() -> None:
        sampled = mean_over_tasks(
            objectives.surrogate, few, fisher=objectives.fisher, mapping=mapping
        )
        for _ in range(PRODUCTS):
            sampled.fisher(theta, direction)

    runs = {"gradient": lambda: whole.gradient(theta), "fisher": fisher}
    seconds = medians(runs, repetitions)
    return {
        "milliseconds": 1e3 * seconds["fisher"],
        "fisher/gradient": seconds["fisher"] / seconds["gradient"],
    }
