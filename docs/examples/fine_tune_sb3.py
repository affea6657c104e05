"""Adapt a meta-policy by a few episodes, then fine-tune it with PPO of Stable-Baselines3.

    pip install stable-baselines3
    python fine_tune_sb3.py RUN --steps 20000

RUN is a run directory of ``metarl train cheetah-velocity``, or of another continuous environment.
"""

from dataclasses import dataclass
from typing import Annotated

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium.wrappers import RescaleAction
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from torch import nn

import metarl
import metarl.rl
import metarl_envs  # noqa: F401  # registers metarl/...


@dataclass(frozen=True)
class Args:
    """Which meta-policy, and how long to tune it."""

    run: Annotated[str, tyro.conf.Positional]  # directory of the run
    steps: int = 20_000  # environment steps of PPO
    episodes: int = 20  # that the meta-policy adapts on
    seed: int = 0  # of everything


def initialise(model: PPO, module: nn.Module) -> None:
    """Put the weights of a `GaussianMLP` into a policy of Stable-Baselines3 of the same layers."""
    weights = module.state_dict()
    last = max(int(name.split(".")[2]) for name in weights if name.startswith("mean."))
    names = {"log_std": "log_std"}
    for i in range(last + 1):
        # Its networks count the activations too, and the last layer stands apart.
        layer = "action_net" if i == last else f"mlp_extractor.policy_net.{2 * i}"
        names |= {f"mean.layers.{i}.{kind}": f"{layer}.{kind}" for kind in ("weight", "bias")}
    theirs = model.policy.state_dict()
    theirs |= {names[name]: weight for name, weight in weights.items()}
    model.policy.load_state_dict(theirs)


args = tyro.cli(Args)
metapolicy = metarl.rl.load(args.run)

# The task that is here to stay; policies do not see it.
env = gymnasium.make(metapolicy.env_id, **metapolicy.env_options)
(env.unwrapped.task,) = env.unwrapped.sample_tasks(1, metarl.stream(args.seed, "task"))
policy = metapolicy.adapt(env, episodes=args.episodes, steps=1, seed=args.seed)
print(f"task {env.unwrapped.task}")
print(f"before adaptation: {policy.returns[0]:.1f}")

# `policy.predict` is that of Stable-Baselines3, so its tools take our policy.
own = Monitor(env)
returned, spread = evaluate_policy(policy, own, n_eval_episodes=10, deterministic=False)
print(f"adapted on {args.episodes} episodes: {returned:.1f} +- {spread:.1f}")

# Our policies act in [-1, 1], which is then mapped to the range of the actions.
rescaled = Monitor(RescaleAction(env, np.float32(-1), np.float32(1)))
widths = [layer.out_features for layer in list(policy.module.mean.layers)[:-1]]
activation = {torch.relu: nn.ReLU, torch.tanh: nn.Tanh}[policy.module.mean.activation]
model = PPO(
    "MlpPolicy",
    rescaled,
    n_steps=2000,
    batch_size=500,
    learning_rate=1e-4,
    target_kl=0.02,
    policy_kwargs={"net_arch": {"pi": widths, "vf": widths}, "activation_fn": activation},
    seed=args.seed,
    device="cpu",
)
initialise(model, policy.module)
observation, _ = env.reset(seed=args.seed)
theirs, _ = model.predict(observation, deterministic=True)
ours = policy.module(torch.as_tensor(observation)).mean.detach().numpy().clip(-1, 1)
assert abs(theirs - ours).max() < 1e-5, "the weights arrived"

model.learn(args.steps)
returned, spread = evaluate_policy(model, rescaled, n_eval_episodes=10, deterministic=False)
print(f"fine-tuned for {args.steps} steps: {returned:.1f} +- {spread:.1f}")
