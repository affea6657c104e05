"""The meta-update of policies that a configuration asks for."""

from typing import Any

import metarl
from metarl.rl.batches import MetaBatch
from metarl.rl.clock import Clock
from metarl.rl.objectives import PolicyObjectives
from metarl.rl.updates import adam_update, next_penalty, promp_update, trpo_update

from ..configs.rl import Config
from ..family import State
from ..training.decay import decay, kl_limit


def meta_update(
    config: Config,
    objectives: PolicyObjectives,
    state: State,
    iteration: int,
    theta: metarl.Params,
    data: MetaBatch,
    *,
    clock: Clock,
    **mapped: Any,
) -> tuple[metarl.Params, dict[str, float]]:
    """TRPO, ProMP or Adam with the settings of an iteration; the new theta and metrics.

    Args:
        config: names the update, its trust region or step size, and their decay.
        objectives: the task functions.
        state: optimiser and penalty, which move in place.
        iteration: from 0.
        theta: initial parameters.
        data: of all tasks.
        clock: collects where the time went.
        mapped: ``mapping`` and ``reduce``, as of `mean_over_tasks`.
    """
    if config.update == "trpo":
        return trpo_update(
            objectives,
            theta,
            data,
            max_kl=kl_limit(config, iteration),
            damping=config.damping,
            cg_steps=config.cg_steps,
            fisher_fraction=config.fisher_fraction,
            generator=metarl.torch_stream(state.extra["seed"], "fisher", iteration),
            clock=clock,
            **mapped,
        )
    assert state.optimizer is not None
    state.optimizer.param_groups[0]["lr"] = config.lr * decay(config, iteration)
    if config.update == "adam":
        return adam_update(objectives, theta, data, state.optimizer, clock=clock, **mapped)
    penalty = state.extra["penalty"]
    theta, metrics = promp_update(
        objectives,
        theta,
        data,
        state.optimizer,
        epochs=config.epochs,
        penalty=penalty,
        clock=clock,
        **mapped,
    )
    state.extra["penalty"] = next_penalty(penalty, metrics["inner_kl"], target_kl=config.max_kl)
    return theta, metrics
