"""The API reference names everything public, and only what exists."""

import importlib
import pydoc
import re

import pytest
from documents import TOP

import metarl_envs

REFERENCE = {
    name
    for path in (TOP / "docs").rglob("*.md")
    for name in re.findall(r"^::: ([\w.]+)$", path.read_text(), re.MULTILINE)
}


PACKAGES = ("metarl", "metarl.rl", "metarl.images", "metarl.runs", "metarl.supervised")


@pytest.mark.parametrize("package", [*PACKAGES, "metarl_envs"])
def test_every_public_name_is_in_the_reference(package: str) -> None:
    public = {f"{package}.{name}" for name in importlib.import_module(package).__all__}
    assert public - REFERENCE == ({"metarl_envs.WORLDS"} if package == "metarl_envs" else set())


def test_every_world_has_its_card() -> None:
    cards = {world.replace(":", ".") for world in metarl_envs.WORLDS.values()}
    assert cards <= REFERENCE
    text = (TOP / "docs" / "environments.md").read_text()
    assert all(f"`{name}`" in text for name in metarl_envs.WORLDS)


def test_every_name_of_the_reference_exists() -> None:
    assert [name for name in REFERENCE if pydoc.locate(name) is None] == []
