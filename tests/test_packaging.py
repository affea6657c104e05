"""The wheel, the lock and setup.cfg."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
LOCK = (TOP / "requirements.lock").read_text()


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What a wheel built from a copy of the sources holds."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, source)
    for name in ("metarl", "envs", "experiments", "tests"):
        shutil.copytree(TOP / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    # A result that is not there yet must stay out as well.
    result = source / "experiments" / "results" / "sinusoid" / "seed-0"
    result.mkdir(parents=True, exist_ok=True)
    (result / "evaluation.json").write_text("{}")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "-w", "dist", "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("metarl_policies-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def sources(folder: str, package: str, pattern: str) -> set[str]:
    """Files of a folder that are not results, under the name of the installed package."""
    found = {path.relative_to(TOP / folder) for path in (TOP / folder).rglob(pattern)}
    return {f"{package}/{p}" for p in found if p.parts[0] != "results"}


def test_wheel_holds_exactly_the_three_packages(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    (metadata,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {"metarl", "metarl_envs", "metarl_experiments", metadata}
    expected = sources("metarl", "metarl", "*.py")
    expected |= sources("envs", "metarl_envs", "*.py")
    expected |= sources("experiments", "metarl_experiments", "*.py")
    assert {name for name in names if name.endswith(".py")} == expected


def test_wheel_holds_presets_and_the_papers_numbers_but_no_results(names: set[str]) -> None:
    data = sources("experiments", "metarl_experiments", "*.json")
    assert {f"metarl_experiments/{f}" for f in ("presets/sinusoid.json", "paper/returns.json")} <= (
        names & data
    )
    assert data | sources("metarl", "metarl", "*.json") <= names
    assert not [name for name in names if "/results/" in name]


def test_lock_is_exact_and_plain() -> None:
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    assert "torch==2.13.0" in lines
    assert not [line for line in lines if re.match(r"nvidia|triton|cuda", line, re.IGNORECASE)]
    locked = {line.partition("==")[0].lower() for line in lines}
    config = configparser.ConfigParser()
    config.read(TOP / "setup.cfg")
    needs = {re.split(">=", need)[0] for need in config["options"]["install_requires"].split()}
    assert needs | {"pytest", "hypothesis", "ruff", "mypy"} <= locked


def test_every_requirement_has_a_lower_bound() -> None:
    config = configparser.ConfigParser()
    config.read(TOP / "setup.cfg")
    for need in config["options"]["install_requires"].split():
        assert re.fullmatch(r"[a-z]+>=[0-9.]+", need), need


def test_second_setup_installs_nothing(tmp_path: Path) -> None:
    """`make -n setup` after a setup has no command left; a changed lock brings them back."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "requirements.lock"):
        shutil.copy(TOP / name, tmp_path)

    def plan() -> str:
        make = ["make", "-n", "setup", "PYTHON=python3"]
        return subprocess.run(make, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert "pip install" in plan()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    assert "pip install" not in plan()
    stamp = (tmp_path / ".venv" / ".installed").stat().st_mtime
    lock = tmp_path / "requirements.lock"
    os.utime(lock, (stamp + 10, stamp + 10))
    assert "pip install" in plan()
