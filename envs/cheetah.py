"""The planar cheetah, whose task is a velocity or a direction."""

from typing import ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from .camera import Camera
from .models import load_cheetah
from .physics import Physics
from .tasks import Array, TaskFamily, direction, uniform
from .world import Motion, check_physics

_LINKS = 7  # torso, then thigh, shin and foot of the back and of the front leg
_PARENTS = (-1, 0, 1, 2, 0, 4, 5)
_CONTROL_COST = 0.05


class _Cheetah:
    """Dynamics shared by the cheetah's tasks."""

    horizon: ClassVar[int] = 200
    tasks: TaskFamily

    def __init__(self, rows: int, *, physics: str = "paper", threads: int = 1) -> None:
        self.paper = check_physics(physics) == "paper"
        self.model = load_cheetah()
        self.physics = Physics(self.model, rows, 1 if self.paper else 5, threads)
        self.camera = Camera(self.model)
        self.observation_size = 20 if self.paper else 17
        self.action_size = 6
        self.action_limit = 1.0
        self.time_step = self.physics.duration
        self._x, self._z, self._height = _link_offsets(self.model)

    def start(self, total: int, rng: np.random.Generator) -> Array:
        """Noise about the standing pose; "gym" draws as gymnasium's HalfCheetah-v5 does."""
        shape = (total, self.model.nq)
        if self.paper:
            position = 0.01 * rng.standard_normal(shape)
        else:
            position = rng.uniform(-0.1, 0.1, shape)
        velocity = 0.1 * rng.standard_normal(shape)
        return self.physics.states(self.model.qpos0 + position, velocity)

    def observe(self, states: Array) -> NDArray[np.float32]:
        """Observations ``(n, 20)`` or ``(n, 17)``."""
        if not self.paper:
            return states[:, 2:].astype(np.float32)
        x, z, _ = self.centre_of_mass(states)
        return self._observation(states, x, z)

    def _observation(self, states: Array, x: Array, z: Array) -> NDArray[np.float32]:
        observations = np.empty((len(states), 20), dtype=np.float32)
        observations[:, :17] = states[:, 2:]
        observations[:, 17] = x
        observations[:, 18] = 0.0  # the cheetah lives in the plane y = 0
        observations[:, 19] = z
        return observations

    def advance(self, states: Array, actions: Array) -> Motion:
        """One step under the clipped torques."""
        control = np.clip(actions, -1.0, 1.0, dtype=np.float64)
        after, invalid = self.physics.step(states, control)
        if self.paper:
            position, z, velocity = self.centre_of_mass(after)
            observations = self._observation(after, position, z)
        else:
            position = after[:, 1].copy()
            velocity = (position - states[:, 1]) / self.time_step
            observations = after[:, 2:].astype(np.float32)
        terms = {"reward_ctrl": -_CONTROL_COST * np.einsum("ij,ij->i", control, control)}
        return Motion(after, observations, velocity, position, terms, invalid)

    def centre_of_mass(self, states: Array) -> tuple[Array, Array, Array]:
        """Whole-body centre of mass x, z (m) and its x velocity (m/s), ``(n,)`` each.

        Each link adds its share of mass times its lever, turned by the link's angle θ in the
        plane: x = x_root + Σ (cos θ a + sin θ b), z = z_root + Σ (cos θ b − sin θ a), and with the
        angular velocity ω, ẋ = ẋ_root + Σ ω (cos θ b − sin θ a). Equal to MuJoCo's
        ``subtree_com`` and ``subtree_linvel`` of the torso.
        """
        columns = np.ascontiguousarray(states.T)  # one contiguous row per coordinate
        nq = self.model.nq
        angle, rate = _accumulate(columns[3 : 1 + nq]), _accumulate(columns[3 + nq :])
        cosine, sine = np.cos(angle), np.sin(angle)
        x = cosine * self._x
        x += sine * self._z
        cosine *= self._z
        sine *= self._x
        cosine -= sine  # now each link's height above the root
        rate *= cosine
        return (
            columns[1] + x.sum(axis=0),
            columns[2] + self._height + cosine.sum(axis=0),
            columns[1 + nq] + rate.sum(axis=0),
        )

    def terminated(self, motion: Motion, task: Array) -> NDArray[np.bool_]:
        """Never."""
        del task
        return np.zeros(len(motion.states), dtype=bool)

    def render(self, state: Array, task: Array) -> NDArray[np.uint8]:
        """Picture from the model's tracking camera."""
        del task
        return self.camera.picture(state)

    def close(self) -> None:
        """Release the pool and the renderer."""
        self.physics.close()
        self.camera.close()


def _link_offsets(model: mujoco.MjModel) -> tuple[Array, Array, float]:
    """Mass-weighted lever ``(a, b)`` of each link, ``(7, 1)`` each, and the root's rest height."""
    mass, subtree = model.body_mass[1:], model.body_subtreemass[1:]
    lever = mass[:, None] * model.body_ipos[1:]
    for link, parent in enumerate(_PARENTS):
        assert int(model.body_parentid[link + 1]) == parent + 1
        if parent >= 0:
            lever[parent] += subtree[link] * model.body_pos[link + 1]
    lever /= mass.sum()
    return lever[:, :1].copy(), lever[:, 2:].copy(), float(model.body_pos[1, 2])


def _accumulate(joints: Array) -> Array:
    """Absolute angles (or rates) ``(7, n)`` of the links from those of their hinges."""
    absolute = np.empty_like(joints)
    absolute[0] = joints[0]
    for link in range(1, _LINKS):
        np.add(absolute[_PARENTS[link]], joints[link], out=absolute[link])
    return absolute


class HalfCheetahVelocity(_Cheetah):
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
    ``info["invalid"]`` and reward 0.

    ## Arguments
    ``physics="paper"``, ``horizon=200``, ``task_range=(0, 2)``, ``observe_task=False``,
    ``render_mode=None`` or ``"rgb_array"``; the batch also ``threads`` (default: the cores).

    ## Differences
    From 2017: the velocity there was read one step late; masses, joints, contacts and torques are
    the same. Ports use 0.05 s a step, horizon 100, goals on [0, 3], or scale the actions: never
    compare returns across them.

    ## Version history
    v0: first version.
    """

    def __init__(
        self,
        rows: int,
        *,
        physics: str = "paper",
        threads: int = 1,
        task_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(rows, physics=physics, threads=threads)
        self.tasks = uniform("velocity", 1, *(task_range or (0.0, 2.0)))

    def reward(self, motion: Motion, task: Array) -> Array:
        """Negative distance of the velocity from the task's."""
        return -np.abs(motion.velocity - task[:, 0])


class HalfCheetahDirection(_Cheetah):
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

    def __init__(
        self,
        rows: int,
        *,
        physics: str = "paper",
        threads: int = 1,
        task_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(rows, physics=physics, threads=threads)
        self.tasks = direction(task_range)

    def reward(self, motion: Motion, task: Array) -> Array:
        """Velocity along the task's direction."""
        return motion.velocity * task[:, 0]
