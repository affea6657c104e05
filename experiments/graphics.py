"""MuJoCo's choice of OpenGL, which it loads when it is imported, pictures or not."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from metarl.errors import InputError, first_line


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
