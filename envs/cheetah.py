"""The planar cheetah, whose task is a velocity or a direction."""

import numpy as np

from .cheetah_dynamics import CheetahDynamics
from .tasks import Array, TaskFamily, direction, uniform
from .world import Motion


class HalfCheetahVelocity(CheetahDynamics):
    """Cheetah that must run at a velocity it is not told: ``metarl/HalfCheetahVelocity-v0``.

    ## Description
    The planar two-legged cheetah of gymnasium's ``half_cheetah.xml`` (14 kg, six actuated hinges).
    ``physics="paper"`` advances 0.01 s a step, ``physics="gym"`` 0.05 s (five substeps) as
    HalfCheetah-v5 does. The solver's warm start is off: a step is a pure function of position,
    velocity and torque, and trajectories part from warm-started ones after contacts.

    ## Task distribution
    ``{"velocity": float}``, m/s, uniform on [0, 2].

    ## Action space
    ``Box(-1, 1, (6,), float32)``: torques as fractions of the motors' range, larger ones clipped.
    Order: back thigh, shin, foot, front thigh, shin, foot.

    ## Observation space
    ``Box(-1e10, 1e10, (20,) or (17,), float32)``; beyond lies divergence. "paper", 20: qpos
    without the root's x (8: root z, pitch, the six hinges; m, rad), qvel (9; m/s, rad/s), the whole
    body's centre of mass x, y, z (3; m, y always 0). "gym", 17: qpos[1:] and qvel. All of the state
    after the step. With ``observe_task=True`` the velocity follows.

    ## Rewards
    ``-abs(v - g)`` (``info["reward_task"]``) ``- 0.05 sum a²`` (``info["reward_ctrl"]``), a the
    clipped action and v (``info["velocity"]``, m/s) the x velocity of the whole body's centre of
    mass after the step in "paper", the root's displacement over 0.05 s in "gym".

    ## Starting state
    "paper": rest pose + 0.01 × standard normal, velocities 0.1 × standard normal. "gym": rest pose
    + uniform(-0.1, 0.1), velocities 0.1 × standard normal.

    ## Episode end
    Never terminated; truncated after 200 steps. Diverged physics ends an episode truncated, with
    ``info["diverged"]`` and reward 0.

    ## Arguments
    ``physics="paper"``, ``horizon=200``, ``task_range=(0, 2)``, ``observe_task=False``,
    ``render_mode=None`` or ``"rgb_array"``; the batch also ``threads`` (default: the cores).

    ## Differences
    From 2017: the solver is today's; masses, joints, contact parameters and torques are the same.
    Ports use 0.05 s a step, horizon 100, goals on [0, 3], or scale the actions: never
    compare returns across them.

    ## Version history
    v0: first version.
    """

    @staticmethod
    def family(task_range: tuple[float, float] | None) -> TaskFamily:
        """Task distribution of the card."""
        return uniform("velocity", 1, task_range, (0.0, 2.0))

    def reward(self, motion: Motion, task: Array) -> Array:
        """Negative distance of the velocity from the task's."""
        return -np.abs(motion.velocity - task[:, 0])


class HalfCheetahDirection(CheetahDynamics):
    """Cheetah that must run in a direction it is not told: ``metarl/HalfCheetahDirection-v0``.

    ## Description
    As ``HalfCheetahVelocity``: the same body, physics variants and time steps.

    ## Task distribution
    ``{"direction": +1.0 or -1.0}``, equally likely; +1 is towards positive x.

    ## Action space
    As ``HalfCheetahVelocity``: ``Box(-1, 1, (6,), float32)``.

    ## Observation space
    As ``HalfCheetahVelocity``: 20 numbers in "paper", 17 in "gym". With ``observe_task=True`` the
    direction follows.

    ## Rewards
    ``d v`` (``info["reward_task"]``) ``- 0.05 sum a²`` (``info["reward_ctrl"]``), v as in
    ``HalfCheetahVelocity`` and ``info["velocity"]``.

    ## Starting state
    As ``HalfCheetahVelocity``.

    ## Episode end
    As ``HalfCheetahVelocity``: only truncated, after 200 steps.

    ## Arguments
    As ``HalfCheetahVelocity``, without a ``task_range``: there are two tasks.

    ## Differences
    As ``HalfCheetahVelocity``.

    ## Version history
    v0: first version.
    """

    @staticmethod
    def family(task_range: tuple[float, float] | None) -> TaskFamily:
        """Task distribution of the card."""
        return direction(task_range)

    def reward(self, motion: Motion, task: Array) -> Array:
        """Velocity along the task's direction."""
        return motion.velocity * task[:, 0]
