"""Speed of ten Fisher products against the meta-gradient, and of first order's."""

from collections.abc import Callable
from dataclasses import replace

from metarl.objective import mean_over_tasks

from ..configs.rl import Config
from ..machine import Machine
from ..rl.learner import PolicyLearner
from .parts.timing import medians
from .parts.update import CHEETAH, prepare

PRODUCTS = 10


def fisher_bench(
    repetitions: int = 5, config: Config = CHEETAH, machine: Machine | None = None
) -> dict[str, float]:
    """Medians over interleaved repetitions: cheetah velocity, ``fisher_fraction`` 0.1.

    - ``milliseconds``: ten products at one theta, all that they share included.
    - ``fisher/gradient``: against the meta-gradient on all time steps.
    - ``first-order/exact``: ten products without second derivatives of the inner step, which is the
      Fisher matrix of the adapted policies alone, against ten with them.
    """
    learner, theta, data, few = prepare(config, machine or Machine(device="cpu"))
    first = PolicyLearner(replace(config, first_order=True), learner.machine)
    whole = mean_over_tasks(learner.objectives.surrogate, data, mapping=learner.mapping)
    direction = whole.gradient(theta)[2]

    def ten_products(learner: PolicyLearner) -> Callable[[], None]:
        objectives = learner.objectives

        def fisher() -> None:
            sampled = mean_over_tasks(
                objectives.surrogate, few, fisher=objectives.fisher, mapping=learner.mapping
            )
            for _ in range(PRODUCTS):
                sampled.fisher(theta, direction)

        return fisher

    runs = {
        "gradient": lambda: whole.gradient(theta),
        "fisher": ten_products(learner),
        "first order": ten_products(first),
    }
    seconds = medians(runs, repetitions)
    return {
        "milliseconds": 1e3 * seconds["fisher"],
        "fisher/gradient": seconds["fisher"] / seconds["gradient"],
        "first-order/exact": seconds["first order"] / seconds["fisher"],
    }
