"""Meta-reinforcement learning: policies, rollouts, inner loops and meta-updates.

A meta-policy in use:

    metapolicy = metarl.rl.load("runs/cheetah-velocity/seed-0")
    policy = metapolicy.adapt(env, episodes=20, steps=1, seed=0)
    action, _ = policy.predict(observation)

One meta-iteration, from its parts:

    collected = collect_meta_batch(theta, sampler=sampler, tasks=tasks, ...)
    data = old_policy(objectives, theta, collected.data)
    theta, metrics = trpo_update(objectives, theta, data, ...)
"""

from metarl.rl.acting import Policy
from metarl.rl.batches import Batch, MetaBatch
from metarl.rl.clock import Clock
from metarl.rl.collect import Collected, collect_meta_batch
from metarl.rl.distributions import Categorical, Gaussian, entropy, log_prob
from metarl.rl.loading import load
from metarl.rl.maml import meta_step
from metarl.rl.metapolicy import MetaPolicy
from metarl.rl.objectives import PolicyObjectives, policy_objectives
from metarl.rl.old_policy import old_policy
from metarl.rl.policies import CategoricalMLP, GaussianMLP, in_head
from metarl.rl.rollout import Rollout
from metarl.rl.sampler import Sampler
from metarl.rl.updates import adam_update, next_penalty, promp_update, trpo_update
from metarl.rl.vector import make_halves
from metarl.rl.weighting import Weighting

__all__ = [
    "Batch",
    "Categorical",
    "CategoricalMLP",
    "Clock",
    "Collected",
    "Gaussian",
    "GaussianMLP",
    "MetaBatch",
    "MetaPolicy",
    "Policy",
    "PolicyObjectives",
    "Rollout",
    "Sampler",
    "Weighting",
    "adam_update",
    "collect_meta_batch",
    "entropy",
    "in_head",
    "load",
    "log_prob",
    "make_halves",
    "meta_step",
    "next_penalty",
    "old_policy",
    "policy_objectives",
    "promp_update",
    "trpo_update",
]
