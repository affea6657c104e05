"""Navigation is learned as well as ten recorded seeds learned it."""

from dataclasses import replace

import numpy as np

from metarl_experiments.configs.rl import Config, EnvConfig
from metarl_experiments.machine import Machine
from metarl_experiments.rl.learner import PolicyLearner

MACHINE = Machine("cpu", "float32", 1, "vmap", "off")
# All that the score depends on stands here: presets may be tuned without moving it.
ANCHOR = Config(
    EnvConfig("metarl/Navigation2D-v0", horizon=50),
    iterations=14,
    meta_batch=20,
    episodes=20,
    inner_steps=1,
    inner_lr=1.0,
    best_reward=0.0,
    update="trpo",
    max_kl=0.03,
    cg_steps=10,
    fisher_fraction=0.1,
    lr_decay="none",
    hidden=(40, 40),
    head_scale=0.01,
    validation_tasks=40,
)
# Validation returns after one inner step, seeds 0 to 9.
RECORDED = [-5.324, -5.387, -5.010, -5.600, -4.688, -4.734, -4.395, -4.851, -4.890, -4.449]


def in_band(score: float) -> bool:
    return bool(abs(score - np.mean(RECORDED)) < 4 * np.std(RECORDED, ddof=1))


def scores(config: Config, seed: int = 10) -> tuple[float, float]:
    """Returns on the fixed validation tasks before and after the inner step, when trained."""
    learner = PolicyLearner(config, MACHINE)
    state = learner.init(seed)
    for i in range(config.iterations):
        learner.step(state, i)
    found = learner.validate(state)
    return found["return_before"], found["return_after"]


def test_score_is_in_the_band_of_recorded_seeds() -> None:
    before, after = scores(ANCHOR)
    assert in_band(after)
    assert not in_band(before)  # mutant: a policy that does not adapt


def test_band_sees_a_first_order_meta_gradient() -> None:
    """Mutant: ``create_graph`` forgotten."""
    assert not in_band(scores(replace(ANCHOR, first_order=True))[1])
