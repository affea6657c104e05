"""Ids of the environments, in gymnasium's registry."""

from gymnasium import register, registry

WORLDS = {
    "metarl/Navigation2D-v0": "metarl_envs.navigation:Navigation2D",
    "metarl/HalfCheetahVelocity-v0": "metarl_envs.cheetah:HalfCheetahVelocity",
    "metarl/HalfCheetahDirection-v0": "metarl_envs.cheetah:HalfCheetahDirection",
    "metarl/AntVelocity-v0": "metarl_envs.ant:AntVelocity",
    "metarl/AntDirection-v0": "metarl_envs.ant:AntDirection",
    "metarl/AntGoal-v0": "metarl_envs.ant:AntGoal",
}


def register_all() -> None:
    """Register every id, by string: nothing of MuJoCo loads until an environment is made."""
    for name, world in WORLDS.items():
        if name not in registry:
            register(
                name,
                entry_point="metarl_envs.single:TaskEnv",
                vector_entry_point="metarl_envs.vector:TaskVectorEnv",
                kwargs={"world": world},
            )
