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

from .acting import Policy
from .batches import Batch, MetaBatch, make_batch, score_weights
from .clock import Clock
from .collect import Adapted, Collected, adapt_by_acting, collect_meta_batch
from .distributions import Categorical, Gaussian, entropy, kl, log_prob, sample
from .loading import load
from .making import make_halves
from .maml import meta_step
from .metapolicy import MetaPolicy
from .objectives import PolicyObjectives, policy_gradient_loss, policy_objectives
from .old_policy import old_policy
from .policies import CategoricalMLP, GaussianMLP, in_head
from .rollout import Rollout
from .sampler import Sampler
from .updates import adam_update, next_penalty, promp_update, trpo_update
from .weighting import Weighting

__all__ = [
    "Adapted",
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
    "adapt_by_acting",
    "collect_meta_batch",
    "entropy",
    "in_head",
    "kl",
    "load",
    "log_prob",
    "make_batch",
    "make_halves",
    "meta_step",
    "next_penalty",
    "old_policy",
    "policy_gradient_loss",
    "policy_objectives",
    "promp_update",
    "sample",
    "score_weights",
    "trpo_update",
]
