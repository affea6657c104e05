"""Imports point down only: experiments -> metarl.{rl, supervised, images} -> metarl; envs apart."""

import ast
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
FOLDERS = {"metarl": "metarl", "envs": "metarl_envs", "experiments": "metarl_experiments"}
FAMILIES = ("metarl.rl", "metarl.supervised", "metarl.images")
OURS = tuple(FOLDERS.values())
STDLIB = set(sys.stdlib_module_names)


def module_name(path: Path, top: Path) -> str:
    folder, *rest = path.relative_to(top).with_suffix("").parts
    return ".".join([FOLDERS[folder], *(part for part in rest if part != "__init__")])


def imports(path: Path, name: str) -> set[str]:
    """Absolute names of everything a file imports, `import a.b` and `from a import b` as a.b."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                kept = parts[: len(parts) - node.level + 1]
                base = ".".join([*kept, base] if base else kept)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def within(name: str, packages: tuple[str, ...]) -> str | None:
    return next((p for p in packages if name == p or name.startswith(p + ".")), None)


def third_party(name: str) -> str | None:
    root = name.partition(".")[0]
    return None if root in STDLIB or root in OURS else root


def violations(name: str, imported: set[str]) -> set[str]:
    """Imports of module `name` that point up or sideways."""
    family = within(name, FAMILIES)
    bad = set()
    for other in imported:
        outside = third_party(other)
        if within(name, ("metarl_envs",)):
            allowed = not within(other, ("metarl", "metarl_experiments")) and outside in (
                None,
                "gymnasium",
                "mujoco",
                "numpy",
            )
        elif within(name, ("metarl",)):
            allowed = not within(other, ("metarl_envs", "metarl_experiments"))
            theirs = within(other, FAMILIES)
            allowed &= theirs is None or theirs == family
            packages = {None, "torch", "numpy", "tensorboard"}
            packages |= {"gymnasium"} if family == "metarl.rl" else set()
            packages |= {"PIL"} if family == "metarl.images" else set()
            packages |= {"safetensors"} if name == "metarl.runs.export" else set()
            allowed &= outside in packages
        else:
            allowed = True
        if not allowed:
            bad.add(other)
    return bad


# Folders of the experiments, from the ground up; those of one floor do not know each other.
FLOORS = (
    ("configs",),
    ("evaluation",),
    ("training",),
    ("rl", "sinusoid", "images"),
    ("bench",),
    ("tables",),
    ("plots",),
    ("reporting",),
    ("commands",),
)
FLOOR = {
    f"metarl_experiments.{folder}": (number, folder)
    for number, folders in enumerate(FLOORS)
    for folder in folders
}


def climbs(name: str, imported: set[str]) -> set[str]:
    """Imports of module `name` of the experiments from a floor above, or from beside it."""
    own = within(name, tuple(FLOOR))
    if own is None:
        return set()
    number, folder = FLOOR[own]
    theirs = {other: FLOOR[room] for other in imported if (room := within(other, tuple(FLOOR)))}
    return {
        other for other, (n, f) in theirs.items() if n > number or (n == number and f != folder)
    }


FILES = [path for folder in FOLDERS for path in sorted((TOP / folder).rglob("*.py"))]


def test_only_the_download_opens_connections() -> None:
    network = ("asyncio", "ftplib", "http", "requests", "socket", "ssl", "urllib")
    found = {
        name
        for path in FILES
        for name in [module_name(path, TOP)]
        if any(within(other, network) for other in imports(path, name))
    }
    assert found == {"metarl.images.download"}


def test_arrows_point_down() -> None:
    assert len(FILES) > 30
    found = {}
    for path in FILES:
        name = module_name(path, TOP)
        bad = violations(name, imports(path, name))
        if bad:
            found[name] = bad
    assert found == {}


def test_experiments_stand_on_what_is_below_them() -> None:
    named = {path: module_name(path, TOP) for path in FILES}
    found = {name: climbs(name, imports(path, name)) for path, name in named.items()}
    assert {name: bad for name, bad in found.items() if bad} == {}
    assert climbs("metarl_experiments.evaluation.x", {"metarl_experiments.rl.learner"})
    assert climbs("metarl_experiments.images.x", {"metarl_experiments.rl.learner"})
    assert not climbs("metarl_experiments.rl.x", {"metarl_experiments.rl.learner"})
    folders = {path.parent.name for path in (TOP / "experiments").glob("*/__init__.py")}
    assert folders == {folder for floor in FLOORS for folder in floor}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("metarl/inner.py", "from .rl import sampler"),
        ("metarl/inner.py", "import metarl_envs.physics"),
        ("metarl/rl/maml.py", "from ..supervised import losses"),
        ("metarl/rl/maml.py", "def f():\n    from metarl.images import data"),
        ("metarl/runs/lock.py", "import rich"),
        ("metarl/runs/lock.py", "import safetensors"),
        ("metarl/supervised/losses.py", "import gymnasium"),
        ("metarl/rl/__init__.py", "from ... import metarl_experiments"),
        ("envs/physics.py", "import torch"),
        ("envs/physics.py", "from metarl import streams"),
    ],
)
def test_upward_arrow_is_seen(tmp_path: Path, file: str, line: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    name = module_name(path, tmp_path)
    assert violations(name, imports(path, name))
