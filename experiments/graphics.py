"""What draws: MuJoCo's choice of OpenGL, loaded when it is imported, and pictures."""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gymnasium.error import Error as GymnasiumError

from metarl.errors import InputError, first_line

# What errors name that come from a missing display or OpenGL; a user's own are not to be hidden.
GRAPHICS = re.compile(r"OpenGL|MUJOCO_GL|GLFW|OSMesa|\bEGL\b|\begl[A-Z]|\bgl[A-Z]")


@contextmanager
def backend_refusals() -> Iterator[None]:
    """Turn what the backend that MUJOCO_GL names raises when it does not load into one line.

    Each backend fails in its own way, down to AttributeError; what they share is who loads them.

    Raises:
        InputError: it does not load.
    """
    try:
        yield
    except Exception as error:
        frames = traceback.walk_tb(error.__traceback__)
        modules = {str(frame.f_globals.get("__name__")) for frame, _ in frames}
        if not any(m.startswith("mujoco.") and m.endswith("gl_context") for m in modules):
            raise
        raise InputError(
            f"MuJoCo cannot be imported with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}: "
            f"{first_line(error)}; install that backend, choose another of egl, osmesa and glfw, "
            "or unset it"
        ) from None


def pictures_of(env: Any) -> Any:
    """A picture of every row.

    Raises:
        InputError: a library that draws is missing, or no OpenGL is to be had.
    """
    try:
        return env.render()
    except Exception as error:  # backends of OpenGL fail in their own ways, down to AttributeError
        said = " ".join(str(error).split())
        if GRAPHICS.search(said):
            said += "; without a display MUJOCO_GL=egl or osmesa draws (libegl1, libosmesa6)"
        elif not isinstance(error, ImportError | GymnasiumError):
            raise
        _release(error)
        raise InputError(f"no pictures: {said}") from None


def _release(error: Exception) -> None:
    """Let go what an error holds: half-made viewers of gymnasium's complain when they go."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    traceback.clear_frames(error.__traceback__)
    sys.unraisablehook = hook
