"""The four-legged ant, whose task is a velocity, a direction or a goal."""

import numpy as np

from .ant_dynamics import AntDynamics
from .tasks import Array, TaskFamily, direction, uniform
from .world import Motion


class AntVelocity(AntDynamics):
    """Ant that must walk at a velocity it is not told: ``metarl/AntVelocity-v0``.

    ## Description
    The four-legged ant of gymnasium's ``ant.xml`` (eight actuated hinges, RK4).
    ``physics="paper"``: one step of 0.02 s and the contact parameters of the 2017 model (solref
    .02 1, solimp .8 .8 .01). ``physics="gym"``: 0.05 s (five substeps) as Ant-v5. The solver's
    warm start is off: a step is a pure function of position, velocity and torque, and trajectories
    part from warm-started ones after contacts.

    ## Task distribution
    ``{"velocity": float}``, m/s, uniform on [0, 3].

    ## Action space
    ``Box(-1, 1, (8,), float32)``: torques in units of 150 N m, larger ones clipped.

    ## Observation space
    ``Box(-1e10, 1e10, (125,) or (105,), float32)``; beyond lies divergence. "paper", 125: qpos
    (15; m, quaternion, rad), qvel (14; m/s, rad/s), cfrc_ext of the 14 bodies clipped to ±1 (84;
    torque N m about the whole body's centre of mass, then force N; the world's six are 0), the
    torso's rotation matrix (9), the whole body's centre of mass (3; m). "gym", 105: qpos[2:],
    qvel, cfrc_ext without the world, clipped to ±1 (78). All of the state after the step, contact
    forces under the action just taken. With ``observe_task=True`` the velocity follows.

    ## Rewards
    ``1 - abs(v - g)`` (``info["reward_task"]``) ``- 0.005 sum a²`` (``info["reward_ctrl"]``)
    ``- 0.0005 sum clip(cfrc_ext, ±1)²`` (``info["reward_contact"]``) ``+ 0.05``
    (``info["reward_survive"]``, "paper" only), a the clipped action and v (``info["velocity"]``,
    m/s) the x velocity of the whole body's centre of mass after the step in "paper", the torso's
    displacement over 0.05 s in "gym".

    ## Starting state
    "paper": the model's ``init_qpos`` (torso at 0.55 m, legs bent) + 0.01 × standard normal,
    quaternion renormalised, velocities 0.1 × standard normal. "gym": qpos0 + uniform(-0.1, 0.1),
    velocities 0.1 × standard normal.

    ## Episode end
    Terminated when the torso's height leaves [0.2, 1] m; truncated after 200 steps. Diverged
    physics ends an episode truncated, with ``info["diverged"]`` and reward 0.

    ## Arguments
    ``physics="paper"``, ``horizon=200``, ``task_range=(0, 3)``, ``observe_task=False``,
    ``render_mode=None`` or ``"rgb_array"``; the batch also ``threads`` (default: the cores).

    ## Differences
    From 2017: the solver is today's; masses, joints, contact parameters and torques are the same.
    From gymnasium's Ant-v5: forces and velocity belong to the state after the step (its ``xpos``
    and ``cfrc_ext`` lag within it, its ``x_velocity`` by up to about 0.06 m/s), and forces are real
    at reset, where its own are zero. Ports without contact forces, without ``init_qpos`` or with
    0.05 s a step are other problems.

    ## Version history
    v0: first version.
    """

    @staticmethod
    def family(task_range: tuple[float, float] | None) -> TaskFamily:
        """Task distribution of the card."""
        return uniform("velocity", 1, task_range, (0.0, 3.0))

    def reward(self, motion: Motion, task: Array) -> Array:
        """One less the distance of the velocity from the task's."""
        return 1.0 - np.abs(motion.velocity - task[:, 0])


class AntDirection(AntDynamics):
    """Ant that must walk in a direction it is not told: ``metarl/AntDirection-v0``.

    ## Description
    As ``AntVelocity``: the same body, physics variants and time steps.

    ## Task distribution
    ``{"direction": +1.0 or -1.0}``, equally likely; +1 is towards positive x.

    ## Action space
    As ``AntVelocity``: ``Box(-1, 1, (8,), float32)``.

    ## Observation space
    As ``AntVelocity``: 125 numbers in "paper", 105 in "gym". With ``observe_task=True`` the
    direction follows.

    ## Rewards
    As ``AntVelocity`` with the task's term ``d v``.

    ## Starting state
    As ``AntVelocity``.

    ## Episode end
    As ``AntVelocity``.

    ## Arguments
    As ``AntVelocity``, without a ``task_range``: there are two tasks.

    ## Differences
    As ``AntVelocity``.

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


class AntGoal(AntDynamics):
    """Ant that must walk to a place it is not told: ``metarl/AntGoal-v0``.

    ## Description
    As ``AntVelocity``: the same body, physics variants and time steps.

    ## Task distribution
    ``{"goal": array(2)}``, metres, each coordinate uniform on [-3, 3].

    ## Action space
    As ``AntVelocity``: ``Box(-1, 1, (8,), float32)``.

    ## Observation space
    As ``AntVelocity``: 125 numbers in "paper", 105 in "gym" (which lacks x and y). With
    ``observe_task=True`` the goal follows.

    ## Rewards
    As ``AntVelocity`` with the task's term ``4 - abs(x - gx) - abs(y - gy)``, (x, y)
    (``info["position"]``, m) the whole body's centre of mass in "paper", the torso in "gym".

    ## Starting state
    As ``AntVelocity``.

    ## Episode end
    As ``AntVelocity``; reaching the goal ends nothing.

    ## Arguments
    As ``AntVelocity``, ``task_range=(-3, 3)`` (low and high of both coordinates).

    ## Differences
    As ``AntVelocity``. The task is not in the paper's tables.

    ## Version history
    v0: first version.
    """

    @staticmethod
    def family(task_range: tuple[float, float] | None) -> TaskFamily:
        """Task distribution of the card."""
        return uniform("goal", 2, task_range, (-3.0, 3.0))

    def reward(self, motion: Motion, task: Array) -> Array:
        """Four less the sum of the distances along x and y."""
        offset = np.abs(motion.position - task)
        return 4.0 - offset[:, 0] - offset[:, 1]
