"""Speed of a meta-iteration with gymnasium's physics against the physics alone."""

from ..configs.rl import Config, EnvConfig
from ..machine import Machine
from .meta_iteration import meta_iteration_bench

GYM = Config(
    EnvConfig("metarl/HalfCheetahVelocity-v0", physics="gym", horizon=100), hidden=(64, 64)
)


def meta_iteration_gym_bench(
    repetitions: int = 3, config: Config = GYM, machine: Machine | None = None
) -> dict[str, float]:
    """`meta_iteration_bench` with 40 x 20 x 100 steps of five substeps and a 64-64 net."""
    return meta_iteration_bench(repetitions, config, machine)
