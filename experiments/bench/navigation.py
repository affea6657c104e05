"""Speed of the meta-update of navigation against a plain loop over tasks."""

import metarl
from metarl.rl.updates import trpo_update
from metarl.trust_region import trust_region_step

from ..configs.rl import Config
from ..machine import Machine
from .parts.loop import loop_objective
from .parts.timing import medians, on_threads
from .parts.update import NAVIGATION, prepare


def navigation_bench(
    repetitions: int = 5, config: Config = NAVIGATION, machine: Machine | None = None
) -> dict[str, float]:
    """Medians over interleaved repetitions: 20 tasks x 20 episodes x 100 steps.

    - ``seconds``: a meta-iteration of training.
    - ``loop/update``: the trust-region step by ``torch.autograd.grad`` task by task, on one thread
      or on all, which is faster, against ours.
    """
    learner, theta, data, few = prepare(config, machine or Machine(device="cpu"))
    state = learner.init(0)
    steps = iter(range(repetitions + 1))

    def ours() -> None:
        trpo_update(
            learner.objectives,
            theta,
            data,
            max_kl=config.max_kl,
            fisher_fraction=config.fisher_fraction,
            generator=metarl.torch_stream(0, "bench-fisher"),
            mapping=learner.mapping,
        )

    def loop() -> None:
        trust_region_step(loop_objective(learner, data, few), theta, max_kl=config.max_kl)

    runs = {
        "iteration": lambda: learner.step(state, next(steps)),
        "update": ours,
        "loop, one thread": on_threads(loop, 1),
        "loop": on_threads(loop, learner.machine.threads),
    }
    seconds = medians(runs, repetitions)
    loops = min(seconds["loop"], seconds["loop, one thread"])
    return {"seconds": seconds["iteration"], "loop/update": loops / seconds["update"]}
