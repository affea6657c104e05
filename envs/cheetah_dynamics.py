"""How the planar cheetah starts, moves and observes itself."""

from typing import ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray

from .camera import Camera
from .models import load_cheetah
from .physics import Physics
from .tasks import Array, TaskFamily
from .world import Motion, check_physics

_LINKS = 7  # torso, then thigh, shin and foot of the back and of the front leg
_PARENTS = (-1, 0, 1, 2, 0, 4, 5)
_CONTROL_COST = 0.05


class CheetahDynamics:
    """Dynamics shared by the cheetah's tasks."""

    horizon: ClassVar[int] = 200
    threaded: ClassVar[bool] = True

    def __init__(
        self,
        rows: int,
        *,
        physics: str = "paper",
        threads: int = 1,
        task_range: tuple[float, float] | None = None,
    ) -> None:
        self.tasks = type(self).family(task_range)
        self.paper = check_physics(physics) == "paper"
        self.model = load_cheetah()
        self.physics = Physics(self.model, rows, 1 if self.paper else 5, threads)
        self.camera = Camera(self.model)
        self.observation_size = 20 if self.paper else 17
        self.action_size = 6
        self.action_limit = 1.0
        self.time_step = self.physics.duration
        self._x, self._z, self._height = _link_offsets(self.model)

    @staticmethod
    def family(task_range: tuple[float, float] | None) -> TaskFamily:
        """Task distribution, over ``task_range`` where one is given."""
        raise NotImplementedError

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
        terms = {"reward_ctrl": -_CONTROL_COST * np.square(control).sum(axis=1)}
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
