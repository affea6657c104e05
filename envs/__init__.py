"""Gymnasium environments whose reward depends on a task.

Importing this package registers the ids ``metarl/...``::

    import gymnasium, metarl_envs
    env = gymnasium.make("metarl/HalfCheetahVelocity-v0")
    envs = gymnasium.make_vec("metarl/HalfCheetahVelocity-v0", num_envs=800)
"""

from .check import check_task_env
from .registration import WORLDS, register_all

__all__ = ["WORLDS", "check_task_env"]

register_all()
