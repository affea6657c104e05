"""A learner of policies and one made-up meta-batch: speed does not depend on the numbers."""

from typing import NamedTuple

import torch

import metarl
from metarl.params import Params
from metarl.rl.batches import Batch, MetaBatch, subsample
from metarl.rl.distributions import Gaussian
from metarl.rl.old_policy import own_policy

from ...configs.rl import THREADS, Config, EnvConfig
from ...machine import Machine, resolve
from ...rl.learner import PolicyLearner

# The paper's settings (Finn et al. 2017), whatever the presets are.
CHEETAH = Config()
NAVIGATION = Config(
    EnvConfig("metarl/Navigation2D-v0", horizon=100), meta_batch=20, episodes=20, inner_lr=0.5
)


class Prepared(NamedTuple):
    """What a meta-update starts from."""

    learner: PolicyLearner
    theta: Params
    data: MetaBatch  # old policies are the objective's own
    few: MetaBatch  # time steps of the Fisher products


def prepare(config: Config, machine: Machine) -> Prepared:
    """A meta-batch of the configuration's sizes; torch gets the machine's threads.

    Args:
        config: one inner step.
        machine: as asked for.
    """
    machine = resolve(machine, threads=THREADS)
    torch.set_num_threads(machine.threads)
    learner = PolicyLearner(config, machine)
    theta = learner.init(0).params
    generator = metarl.torch_stream(0, "bench")
    shape = (config.meta_batch, config.episodes, config.env.horizon)
    inputs, outputs = theta["mean.layers.0.weight"].shape[1], len(theta["log_std"])

    def batch() -> Batch:
        def draw(*more: int) -> torch.Tensor:
            return torch.randn(*shape, *more, generator=generator)

        actions = draw(outputs)
        old = Gaussian(torch.zeros_like(actions), torch.zeros_like(actions))
        return Batch(draw(inputs), actions, draw(), torch.ones(shape), old)

    data = MetaBatch((batch(),), batch())
    data = own_policy(learner.objectives, theta, data, mapping=learner.mapping)
    return Prepared(learner, theta, data, subsample(data, config.fisher_fraction, generator))
