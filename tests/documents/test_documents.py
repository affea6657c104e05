"""README and docs: what they show is run or compared."""

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from documents import DOCUMENTS, README, TOP, blocks

from metarl_experiments.__main__ import COMMANDS, HELP


def readme_code(start: str) -> str:
    (code,) = (block for block in blocks(README, "python") if block.startswith(start))
    return code


def test_readme_example_runs_and_learns() -> None:
    code = readme_code("import torch, metarl")
    generator = torch.Generator().manual_seed(0)

    def points(tasks: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.rand(tasks, 10, 1, generator=generator) * 4 - 2
        slopes = torch.rand(tasks, 1, 1, generator=generator) + 1
        return torch.cat([x, x], 1), torch.cat([slopes * x, slopes * x], 1)

    def halves(x: torch.Tensor, y: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], ...]:
        return (x[:, :10], y[:, :10]), (x[:, 10:], y[:, 10:])

    new_task = tuple(v[0] for v in points(1))
    batches = [halves(*points(8)) for _ in range(100)]
    torch.manual_seed(0)
    names = {"meta_batches": batches, "new_task": new_task}
    exec(compile(code, "README.md", "exec"), names)
    loss, params, adapted = (names[n] for n in ("loss", "params", "adapted"))
    with torch.no_grad():
        assert float(loss(adapted, new_task)) < float(loss(params, new_task))  # type: ignore[operator]


def test_readme_environments_run() -> None:
    names: dict[str, Any] = {}
    exec(compile(readme_code("import gymnasium"), "README.md", "exec"), names)
    env, envs, tasks = (names[n] for n in ("env", "envs", "tasks"))
    assert names["observations"].shape == (800, *env.observation_space.shape)
    assert envs.get_attr("task") == tuple(tasks)
    *_, infos = envs.step(envs.action_space.sample())
    assert infos["velocity"].shape == (800,)
    envs.close()
    env.close()


def test_readme_meta_policy_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    names: dict[str, Any] = {"numpy": numpy}
    exec(compile(readme_code("import metarl.rl"), "README.md", "exec"), names)
    assert abs(names["action"]).max() <= numpy.float32(0.1)


def test_every_block_of_the_readme_is_run_here() -> None:
    source = Path(__file__).read_text()
    for block in blocks(README, "python"):
        assert f'readme_code("{block.splitlines()[0][:12]}' in source, block


def test_documented_usage_is_the_commands_own() -> None:
    text = (TOP / "docs" / "command-line.md").read_text()
    usage = re.findall(r"```\n(.*?)```", text, re.DOTALL)[0]
    own = HELP.split("\n\n")[2] + "\n"
    assert usage == textwrap.dedent(own)
    assert all(f"metarl {command}" in usage for command in COMMANDS)


def test_links_and_figures_exist() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_documented_make_targets_exist() -> None:
    makefile = (TOP / "Makefile").read_text()
    for path in DOCUMENTS:
        for target in re.findall(r"^make ([a-z-]+)", path.read_text(), re.MULTILINE):
            assert f"\n{target}:" in makefile, f"{path.name}: make {target}"
