"""Meta-updates take the settings of their iteration, and leave those of the next."""

from dataclasses import replace
from typing import Any

import pytest
from spies import recorded

from metarl.rl.clock import Clock
from metarl_experiments.configs.rl import Config, EnvConfig
from metarl_experiments.family import State
from metarl_experiments.machine import Machine
from metarl_experiments.rl.learner import PolicyLearner
from metarl_experiments.rl.meta_update import meta_update

MACHINE = Machine("cpu", "float32", 1, "auto", "off")
CONFIG = Config(
    EnvConfig("metarl/Navigation2D-v0", horizon=6),
    iterations=4,
    meta_batch=2,
    episodes=3,
    update="promp",
    max_kl=0.02,
    damping=0.5,
    cg_steps=3,
    fisher_fraction=0.5,
    lr=0.1,
    lr_decay="cosine",
    epochs=3,
    hidden=(5,),
)
NOTHING: Any = None


def test_trust_region_is_the_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(
        monkeypatch, "metarl_experiments.rl.meta_update.trpo_update", lambda *_, **__: ({}, {})
    )
    config, state = replace(CONFIG, update="trpo"), State({}, None, {"seed": 1})
    for iteration in (0, 2, 4):
        meta_update(config, NOTHING, state, iteration, {}, NOTHING, clock=Clock())
    options = [call.options for call in calls]
    assert [x["max_kl"] for x in options] == pytest.approx([0.02, 0.01, 0.0002])
    assert {(x["damping"], x["cg_steps"], x["fisher_fraction"]) for x in options} == {(0.5, 3, 0.5)}
    # Mutant: the Fisher products see the same time steps in every iteration.
    assert len({x["generator"].initial_seed() for x in options}) == 3


def test_promp_takes_the_penalty_of_the_state_and_leaves_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inner_kl = iter([0.02, 0.04])
    calls = recorded(
        monkeypatch,
        "metarl_experiments.rl.meta_update.promp_update",
        lambda *_, **__: ({}, {"inner_kl": next(inner_kl)}),
    )
    state = PolicyLearner(CONFIG, MACHINE).init(0)
    for iteration in (0, 2):
        meta_update(CONFIG, NOTHING, state, iteration, {}, NOTHING, clock=Clock())
    assert state.optimizer is not None
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 2)
    assert [(x.options["epochs"], x.options["penalty"]) for x in calls] == [(3, 5e-4)] * 2
    assert state.extra["penalty"] == 1e-3
