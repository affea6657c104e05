"""Off-screen pictures of MuJoCo states, with a display or without."""

import os
import sys
from importlib import import_module
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from .tasks import Array

_WIDTH, _HEIGHT = 480, 480


class Camera:
    """Renders states of a model from its first camera; opens the graphics context on first use."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.model = model
        self._context: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """The model; a context belongs to its process."""
        return {"model": self.model, "_context": None}

    def _open(self) -> None:
        quality = self.model.vis.global_
        quality.offwidth = max(quality.offwidth, _WIDTH)
        quality.offheight = max(quality.offheight, _HEIGHT)
        self._gl, self._context = _graphics_context(self.model)
        self._data = mujoco.MjData(self.model)
        self._scene = mujoco.MjvScene(self.model, maxgeom=1000)
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._view.fixedcamid = 0
        self._option = mujoco.MjvOption()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def picture(self, state: Array) -> NDArray[np.uint8]:
        """Picture ``(480, 480, 3)`` of one full physics state.

        Raises:
            RuntimeError: no OpenGL backend loads.
        """
        if self._context is None:
            self._open()
        self._gl.make_current()
        mujoco.mj_setState(self.model, self._data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS.value)
        mujoco.mj_kinematics(self.model, self._data)
        mujoco.mj_comPos(self.model, self._data)
        mujoco.mj_camlight(self.model, self._data)
        mujoco.mjv_updateScene(
            self.model,
            self._data,
            self._option,
            None,
            self._view,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self._scene,
        )
        viewport = mujoco.MjrRect(0, 0, _WIDTH, _HEIGHT)
        mujoco.mjr_render(viewport, self._scene, self._context)
        picture = np.empty((_HEIGHT, _WIDTH, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(picture, None, viewport, self._context)
        return np.flipud(picture).copy()

    def close(self) -> None:
        """Free the graphics context."""
        if self._context is not None:
            self._gl.make_current()  # else what it frees are those of another
            self._context.free()
            self._gl.free()
            self._context = None


def _graphics_context(model: mujoco.MjModel) -> tuple[Any, mujoco.MjrContext]:
    """OpenGL and drawing contexts: MUJOCO_GL's choice, else off-screen EGL, or a hidden window.

    OSMesa has to be chosen: once EGL was tried, it cannot load in the same process.
    """
    chosen = os.environ.get("MUJOCO_GL")
    if chosen:
        backends = [chosen.lower()]
    elif sys.platform == "darwin":
        backends = ["cgl", "glfw"]
    else:
        backends = ["egl", "glfw"]
    reasons = []
    for backend in backends:
        try:
            gl = import_module(f"mujoco.{backend}").GLContext(_WIDTH, _HEIGHT)
            gl.make_current()
            return gl, mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except Exception as error:  # each backend fails in its own way, down to AttributeError
            reasons.append(f"{backend}: {type(error).__name__}: {error}")
    raise RuntimeError(
        "no OpenGL backend loads for rendering; install EGL, or OSMesa and set MUJOCO_GL=osmesa ("
        + "; ".join(reasons)
        + ")"
    )
