"""The code of the docs runs as it stands there, block after block."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from documents import DOCUMENTS, README, TOP, blocks, name_of

PAGES = [path for path in DOCUMENTS if path != README and blocks(path, "python")]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that begins with ``# name.py`` is that file, which the next ones can import."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "experiments").symlink_to(TOP / "experiments")
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for number, code in enumerate(blocks(page, "python")):
        first = code.partition("\n")[0]
        if first.startswith("# ") and first.endswith(".py"):
            module = first.removeprefix("# ").removesuffix(".py")
            (tmp_path / f"{module}.py").write_text(code)
            monkeypatch.delitem(sys.modules, module, raising=False)
            importlib.import_module(module)
            continue
        exec(compile(code, f"{name_of(page)}, block {number}", "exec"), names)
    for env in (names.get("env"), names.get("envs")):
        if env is not None:
            env.close()  # type: ignore[attr-defined]


def test_write_your_own_takes_twenty_lines() -> None:
    (page,) = (path for path in PAGES if path.name == "writing.md")
    for code in blocks(page, "python"):
        lines = [
            line for line in code.splitlines() if line and not line.startswith(("import", "from"))
        ]
        assert len(lines) <= 20, code
