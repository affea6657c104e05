"""The commands of README and docs run as they stand there, on budgets of a second."""

from pathlib import Path

import pytest
from commands import SMALL
from documents import DOCUMENTS, TOP, blocks, commands, name_of
from images_data import glyphs

from metarl_experiments.__main__ import main
from metarl_experiments.options import find_experiment
from metarl_experiments.training.options import fresh

TINY = {
    "sinusoid": SMALL,
    "rl": [
        "--compile=off",
        "--iterations=2",
        "--meta-batch=2",
        "--episodes=2",
        "--evaluation-episodes=2",
        "--validation-tasks=2",
    ],
    "images": [
        "--compile=off",
        "--iterations=2",
        "--meta-batch=2",
        "--net=dense",
        "--query=1",
        "--validation-tasks=2",
    ],
}
PAGES = [path for path in DOCUMENTS if commands(path)]


def tiny(argv: list[str]) -> list[str] | None:
    """The command on a small budget, or None where it needs what a test has not."""
    if argv[0] == "download":
        return ["download", "--help"]
    if argv[0] == "bench":
        return None
    if argv[0] == "train":
        small = TINY[find_experiment(argv[1]).family]
        if "--resume" in argv:
            small = ["--iterations=3"]
        if "--from" in argv:
            # The net is the other run's.
            small = [option for option in small if not option.startswith("--net=")]
        return without(argv, [option.partition("=")[0] for option in small]) + small
    if argv[0] == "evaluate" and "--compare" in argv:
        return [*argv, "--episodes=2"]  # the small run adapts on fewer than a shipped one
    if argv[0] == "render":
        return [*argv, "--tasks=1"]
    return argv


def without(argv: list[str], options: list[str]) -> list[str]:
    """The command without some options and their values."""
    given = [i for i, word in enumerate(argv) if word in options]
    return [word for i, word in enumerate(argv) if i not in given and i - 1 not in given]


@pytest.mark.filterwarnings("ignore:--signal-after:metarl.errors.RunWarning")  # so few iterations
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "experiments").symlink_to(TOP / "experiments")
    for code in blocks(page, "python"):
        name, _, rest = code.partition("\n")
        if name.endswith(".py"):
            (tmp_path / name.removeprefix("# ")).write_text(rest)
    monkeypatch.setattr("metarl_experiments.images.tasks.load_omniglot", lambda _: glyphs(1623))
    for argv in commands(page):
        if argv[:2] == ["train", "mini-imagenet"]:
            fresh(find_experiment(argv[1]), argv[2:])
            continue
        small = tiny(argv)
        if small is not None:
            assert main(small) == 0, " ".join(argv)
