"""Gymnasium environments whose reward depends on a task.

Importing this package registers the ids ``metarl/...``::

    import gymnasium, metarl_envs
    env = gymnasium.make("metarl/HalfCheetahVelocity-v0")
    envs = gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", num_envs=800)
"""

from .registration import WORLDS, register_all

__all__ = ["WORLDS"]

register_all()
