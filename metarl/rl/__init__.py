"""Meta-reinforcement learning: policies, rollouts, inner loops and meta-updates.

metapolicy = metarl.rl.load("runs/cheetah-velocity/seed-0")
policy = metapolicy.adapt(env, episodes=20, steps=1, seed=0)
action, _ = policy.predict(observation)
"""

from metarl.rl.acting import Policy
from metarl.rl.metapolicy import MetaPolicy, load

__all__ = ["MetaPolicy", "Policy", "load"]
