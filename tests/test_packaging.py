"""The wheel, the lock and setup.cfg."""

import configparser
import functools
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
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources."""
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
    (built,) = (source / "dist").glob("metarl_policies-*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """What the wheel holds."""
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


def test_wheel_beside_a_folder_with_packages_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    """Users have folders called `envs` and `experiments`; neither is ours, nor ours theirs."""
    site, home = tmp_path / "site", tmp_path / "home"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--disable-pip-version-check", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    for name in ("envs", "experiments"):
        (home / name).mkdir(parents=True)
        (home / name / "__init__.py").write_text("MINE = True")
    (home / "script.py").write_text(
        "import envs, experiments, gymnasium, metarl.rl, metarl_envs, metarl_experiments\n"
        "assert envs.MINE and experiments.MINE\n"
        f"assert metarl.__file__.startswith({str(site)!r}), metarl.__file__\n"
        "for name in ('metarl', 'metarl_envs', 'metarl_experiments'):\n"
        "    assert not hasattr(__import__(name), 'MINE')\n"
        "env = gymnasium.make('metarl_envs:metarl/Navigation2D-v0', horizon=3)\n"
        "env.reset(seed=0)\n"
        "print(env.step(env.action_space.sample())[1] < 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    run = functools.partial(
        subprocess.run, cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    done = run([sys.executable, "script.py"])
    assert done.stdout == "True\n", done.stderr
    done = run([sys.executable, "-m", "metarl_experiments", "list"])
    assert "cheetah-velocity" in done.stdout, done.stderr


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
