"""MUJOCO_GL names a backend that does not load: one line, whatever needs MuJoCo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metarl_experiments.graphics import backend_refusals

# As PyOpenGL fails where the library behind it is not installed.
UNINSTALLED = "raise AttributeError(\"'NoneType' object has no attribute 'glGetError'\")"


@pytest.mark.parametrize(
    "argv",
    [
        ["check", "metarl/HalfCheetahVelocity-v0"],
        ["train", "cheetah-velocity", "--compile=off", "--out=run"],
        ["bench", "sampler"],
    ],
)
def test_a_backend_that_does_not_load_is_one_line(argv: list[str], tmp_path: Path) -> None:
    package = tmp_path / "path" / "OpenGL"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "GL.py").write_text(UNINSTALLED)
    found = subprocess.run(
        [sys.executable, "-m", "metarl_experiments", *argv],
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if name != "PYOPENGL_PLATFORM"},
            "MUJOCO_GL": "osmesa",
            "PYTHONPATH": os.pathsep.join([str(package.parent), *sys.path]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = found.stderr.splitlines()
    assert found.returncode == 2
    assert "MUJOCO_GL=osmesa" in line
    assert "unset it" in line
    assert [path.name for path in tmp_path.iterdir()] == ["path"]


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(AttributeError, match="glGetError"), backend_refusals():
        exec(UNINSTALLED, {"__name__": "my_package"})
    # Where MuJoCo itself chooses.
    with pytest.raises(ValueError, match="glGetError"), backend_refusals():
        exec(UNINSTALLED, {"__name__": "mujoco.gl_context"})
