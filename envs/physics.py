"""Many simulations of one model, stepped in one call of MuJoCo's rollout pool."""

import os
from typing import Any

import mujoco
import numpy as np
from mujoco.rollout import Rollout
from numpy.typing import NDArray

from .quiet import quiet_mujoco
from .tasks import Array

# A reset inside MuJoCo puts time back to zero, so episodes start well above it.
START_TIME = 1.0
# Beyond this MuJoCo calls a position, velocity or acceleration unstable: observations lie within.
HUGE = 1e10


def available_threads() -> int:
    """Cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


class Physics:
    """A pool that advances rows of MuJoCo states; it holds no state of its own between calls.

    A row is MuJoCo's full physics state: time, qpos, qvel. Results do not depend on ``threads``.

    Args:
        model: the model all rows share.
        rows: the most rows of one call.
        substeps: model time steps per call.
        threads: threads that step; 1 steps on the calling thread, and releases the interpreter.
    """

    def __init__(self, model: mujoco.MjModel, rows: int, substeps: int, threads: int) -> None:
        self.model = model
        self.rows = rows
        self.substeps = substeps
        self.threads = min(threads, rows)
        self.state_size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self.duration = substeps * model.opt.timestep
        self._start_pool()

    def _start_pool(self) -> None:
        self._control = np.empty((self.rows, self.substeps, self.model.nu))
        self._states = np.empty((self.rows, self.substeps, self.state_size))
        self._sensors = np.empty((self.rows, self.substeps, self.model.nsensordata))
        self._models = [self.model] * self.rows
        self._data = [mujoco.MjData(self.model) for _ in range(self.threads)]
        self._pool = Rollout(nthread=self.threads if self.threads > 1 else 0)

    def __getstate__(self) -> dict[str, Any]:
        """All but the pool and its buffers, which are made anew."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes)
        self._start_pool()

    def states(self, qpos: Array, qvel: Array) -> Array:
        """Rows for positions ``(n, nq)`` and velocities ``(n, nv)`` at the start of an episode."""
        time = np.full((len(qpos), 1), START_TIME)
        return np.concatenate((time, qpos, qvel), axis=1)

    def step(self, states: Array, controls: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Advance ``states (n, state)`` under constant ``controls (n, actuator)``.

        Returns:
            ``(states, invalid)``: a view of a buffer that the next call overwrites, and ``(n,)``
            flags of rows whose physics diverged. Those rows are returned as they came in.
        """
        n = len(states)
        if n == 0:
            return states, np.zeros(0, dtype=bool)
        self._control[:n] = controls[:, None]
        after = self._states[:n]
        sensors = self._sensors[:n] if self.model.nsensordata else None
        with quiet_mujoco():
            self._pool.rollout(
                self._models if n == self.rows else self._models[:n],
                self._data,
                np.ascontiguousarray(states),
                self._control[:n],
                nstep=self.substeps,
                state=after,
                sensordata=sensors,
                skip_checks=True,
            )
        last = after[:, -1]
        invalid = self._diverged(states, last)
        if invalid.any():
            last[invalid] = states[invalid]
        return last, invalid

    def sense(self, states: Array, controls: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Sensor readings ``(n, sensor)`` at ``states`` themselves, and flags as `step` gives them.

        Needs ``substeps == 1``; the step that MuJoCo takes after reading is thrown away.
        """
        _, invalid = self.step(states, controls)
        return self._sensors[: len(states), 0], invalid

    def _diverged(self, before: Array, after: Array) -> NDArray[np.bool_]:
        # MuJoCo restarts a diverged simulation silently, or stops it early: its clock tells.
        least = (self.substeps - 0.5) * self.model.opt.timestep
        invalid: NDArray[np.bool_] = after[:, 0] < before[:, 0] + least
        if not (after.min() > -HUGE and after.max() < HUGE):
            # Negated so that a NaN, which compares false, counts as huge.
            invalid |= ~(np.abs(after) < HUGE).all(axis=1)
        return invalid

    def close(self) -> None:
        """Stop the pool's threads."""
        self._pool.close()
