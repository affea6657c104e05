"""How the four-legged ant starts, moves and observes itself."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .camera import Camera
from .models import load_ant, load_ant_sensors
from .physics import Physics
from .tasks import Array, TaskFamily
from .world import Motion, check_physics

_BODIES = 13  # after the world
_CONTROL_COST = 0.005
_CONTACT_COST = 0.0005
_SURVIVAL = 0.05
_HEALTHY = (0.2, 1.0)  # metres, height of the torso


class AntDynamics:
    """Dynamics shared by the ant's tasks."""

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
        self.model = load_ant(physics)
        self.physics = Physics(self.model, rows, 1 if self.paper else 5, threads)
        self.sensors = Physics(load_ant_sensors(physics), rows, 1, threads)
        self.camera = Camera(self.model)
        self.observation_size = 125 if self.paper else 105
        self.action_size = 8
        self.action_limit = 1.0
        self.time_step = self.physics.duration

    @staticmethod
    def family(task_range: tuple[float, float] | None) -> TaskFamily:
        """Task distribution, over ``task_range`` where one is given."""
        raise NotImplementedError

    def start(self, total: int, rng: np.random.Generator) -> Array:
        """Noise about the crouching ("paper") or the standing pose; "gym" draws as Ant-v5."""
        nq, nv = self.model.nq, self.model.nv
        if self.paper:
            # The model's custom numeric, not qpos0: lower, with bent legs.
            position = self.model.numeric("init_qpos").data + 0.01 * rng.standard_normal(
                (total, nq)
            )
        else:
            position = self.model.qpos0 + rng.uniform(-0.1, 0.1, (total, nq))
        quaternion = position[:, 3:7]
        if self.paper:
            quaternion /= _norm(quaternion)
        return self.physics.states(position, 0.1 * rng.standard_normal((total, nv)))

    def observe(self, states: Array) -> NDArray[np.float32]:
        """Observations ``(n, 125)`` or ``(n, 105)``, contact forces those of zero torque."""
        force, centre, _, _ = self._sense(states, np.zeros((len(states), self.action_size)))
        return self._observation(states, force, centre)

    def _sense(
        self, states: Array, control: Array
    ) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
        """Clipped external forces ``(n, 78)``, centre of mass and its velocity ``(n, 3)``; flags.

        A body's ``cfrc_ext`` is the torque, about the whole body's centre of mass c, and the force
        that contacts exert on it. The sensors give what the body exerts, force F and torque T at
        p: cfrc_ext = −(T + (p − c) × F, F), as mj_rnePostConstraint computes it.
        """
        reading, invalid = self.sensors.sense(states, control)
        contact = reading[:, : 9 * _BODIES].reshape(len(states), _BODIES, 3, 3)
        centre, velocity = reading[:, -6:-3], reading[:, -3:]
        force = np.zeros((len(states), _BODIES, 2, 3))
        touched = (contact[:, :, 0] != 0.0).any(axis=2)  # few bodies of few ants
        row = np.nonzero(touched)[0]
        exerted, torque, point = contact[touched].transpose(1, 0, 2)
        torque = torque + np.cross(point - centre[row], exerted)
        force[touched] = -np.stack((torque, exerted), axis=1)
        np.clip(force, -1.0, 1.0, out=force)
        return force.reshape(len(states), 6 * _BODIES), centre.copy(), velocity.copy(), invalid

    def _observation(self, states: Array, force: Array, centre: Array) -> NDArray[np.float32]:
        observations = np.empty((len(states), self.observation_size), dtype=np.float32)
        if not self.paper:
            observations[:, :27] = states[:, 3:]  # without x and y
            observations[:, 27:] = force
            return observations
        observations[:, :29] = states[:, 1:]
        observations[:, 29:35] = 0.0  # the world, on which no force is reckoned
        observations[:, 35:113] = force
        observations[:, 113:122] = _rotation(states[:, 4:8])
        observations[:, 122:] = centre
        return observations

    def advance(self, states: Array, actions: Array) -> Motion:
        """One step under the clipped torques, then a look at the new state."""
        control = np.clip(actions, -1.0, 1.0, dtype=np.float64)
        after, invalid = self.physics.step(states, control)
        force, centre, speed, unsensed = self._sense(after, control)
        if self.paper:
            position, velocity = centre[:, :2].copy(), speed[:, 0].copy()
        else:
            position = after[:, 1:3].copy()
            velocity = (after[:, 1] - states[:, 1]) / self.time_step
        terms = {
            "reward_ctrl": -_CONTROL_COST * np.square(control).sum(axis=1),
            "reward_contact": -_CONTACT_COST * np.square(force).sum(axis=1),
        }
        if self.paper:
            terms["reward_survive"] = np.full(len(states), _SURVIVAL)
        if unsensed.any():
            after[unsensed] = states[unsensed]
        return Motion(
            after,
            self._observation(after, force, centre),
            velocity,
            position,
            terms,
            invalid | unsensed,
        )

    def terminated(self, motion: Motion, task: Array) -> NDArray[np.bool_]:
        """Whether the torso's height left [0.2, 1] m."""
        del task
        height = motion.states[:, 3]
        return (height < _HEALTHY[0]) | (height > _HEALTHY[1])

    def render(self, state: Array, task: Array) -> NDArray[np.uint8]:
        """Picture from the model's tracking camera."""
        del task
        return self.camera.picture(state)

    def close(self) -> None:
        """Release the pools and the renderer."""
        self.physics.close()
        self.sensors.close()
        self.camera.close()


def _norm(vectors: Array) -> Array:
    squares: Array = np.einsum("ij,ij->i", vectors, vectors)
    return np.sqrt(squares)[:, None]


def _rotation(quaternions: Array) -> Array:
    """Rotation matrices ``(n, 9)``, row-major, of quaternions ``(n, 4)``, w first."""
    w, x, y, z = (quaternions / _norm(quaternions)).T
    entries = (
        w * w + x * x - y * y - z * z,
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        w * w - x * x + y * y - z * z,
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        w * w - x * x - y * y + z * z,
    )
    return np.stack(entries, axis=1)
