"""The shipped runs: pruned, re-evaluated, and the numbers of README and docs that come from them.

    python -m metarl_experiments.results ship RUN GROUP    add RUN as results/GROUP/seed-<n>
    python -m metarl_experiments.results evaluate GROUP    evaluate a group's runs anew
    python -m metarl_experiments.results write             put numbers, figures into documents
    python -m metarl_experiments.results check             re-evaluate; fail where any differs

A figure that a document shows as ``figures/<experiment>-adaptation.png`` is drawn from them too. A
number in a document stands between ``<!-- results:KIND ARGUMENTS -->`` and ``<!-- /results -->``.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.errors import InputError, MetarlError, NoDataError
from metarl.runs import prune_run, read_config, read_json, write_json
from metarl.runs.reading import EVALUATION

from .catalog import Experiment
from .evaluate import evaluate, load
from .tables import KINDS

if TYPE_CHECKING:
    from .drawings import Drawing

ROOT = Path(__file__).resolve().parent / "results"
SHOWN = re.compile(r"\bfigures/([a-z-]+-adaptation\.png)")
MARKED = re.compile(r"(<!-- results:([a-z][a-z-]*) ?(.*?) -->)(.*?)(<!-- /results -->)", re.DOTALL)
HELD_OUT = "held-out.json"
# A re-evaluation on another machine rounds differently, and contacts amplify that.
TOLERANCE_OF_CI95 = 0.1


def is_shipped(path: Path) -> bool:
    """Whether a path is or lies under the shipped results."""
    return path.resolve().is_relative_to(ROOT)


def shipped(root: Path) -> list[Path]:
    """The shipped run directories, ``<group>/seed-<n>``."""
    return sorted(config.parent for config in root.glob("*/seed-*/config.json"))


def protocols(experiment: Experiment, group: str) -> dict[str, Any]:
    """File -> options of the evaluations that are shipped of a group's runs.

    What is measured on the paper's goals is measured on other tasks too, for the best preset.
    """
    options = experiment.configs().EvaluateOptions
    found = {EVALUATION: options()}
    if found[EVALUATION].task_seed == "paper" and group == experiment.name:
        found[HELD_OUT] = options(tasks=200, task_seed=0)
    return found


def ship(run: Path, group: str, root: Path) -> Path:
    """Prune a finished run into ``results/<group>/seed-<n>`` and evaluate it there."""
    target = root / group / f"seed-{read_config(run)['seed']}"
    prune_run(run, target)
    evaluate_shipped(target)
    return target


def evaluate_shipped(path: Path) -> None:
    """Evaluate a shipped run by all its protocols, and keep what was found with it."""
    loaded = load(path)
    group = path.parent.name
    for file, options in protocols(loaded.experiment, group).items():
        result = evaluate(loaded, options)
        result["run"] = f"experiments/results/{group}/{path.name}"
        write_json(path / file, result)


def check_run(path: Path) -> list[str]:
    """Re-evaluate a shipped run; what differs from the evaluations beside it, in lines."""
    loaded = load(path)
    problems = []
    for file, options in protocols(loaded.experiment, path.parent.name).items():
        if (path / file).exists():
            found = evaluate(loaded, options)
            problems += differences(found, read_json(path / file), f"{path / file}")
        else:
            problems.append(f"{path}: has no {file}")
    return problems


def differences(found: dict[str, Any], told: dict[str, Any], file: str) -> list[str]:
    """What a re-evaluation found otherwise than a file says, in lines."""
    problems = [
        f"{file}: {name} is told as {told[name]}, and is {found[name]}"
        for name in ("experiment", "iteration", "metric", "task_seed", "tasks", "steps")
        if found[name] != told[name]
    ]
    if problems:
        return problems
    mean, said, ci95 = (
        np.array(values, dtype=float) for values in (found["mean"], told["mean"], told["ci95"])
    )
    same = np.isnan(mean) & np.isnan(said)
    far = ~same & ~(np.abs(mean - said) <= TOLERANCE_OF_CI95 * ci95 + 1e-6)
    return [
        f"{file}: after {k} steps {told['mean'][k]} is told, and found {found['mean'][k]}"
        for k in np.flatnonzero(far)
    ]


def evaluations(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Group -> the evaluations of its seeds, in the order of seeds.

    Those on other tasks than the protocol's are the group ``<group>-held-out``.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for suffix, file in (("", EVALUATION), ("-held-out", HELD_OUT)):
        for path in sorted(root.glob(f"*/seed-*/{file}")):
            groups.setdefault(path.parent.parent.name + suffix, []).append(read_json(path))
    return groups


def fill(text: str, groups: dict[str, list[dict[str, Any]]]) -> str:
    """A document with every marked number as the evaluations say.

    Raises:
        InputError: an unknown kind of number, or one that no shipped run gives.
    """

    def replace(match: re.Match[str]) -> str:
        opening, kind, arguments, _, closing = match.groups()
        if kind not in KINDS:
            raise InputError(f"{opening}: there is no {kind!r}, only {', '.join(KINDS)}")
        try:
            return f"{opening}{KINDS[kind](groups, *arguments.split())}{closing}"
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(f"{opening}: no shipped run gives it ({error})") from None

    return MARKED.sub(replace, text)


def documents() -> list[Path]:
    """The README and the docs of the checkout."""
    top = ROOT.parent.parent
    return [
        path for path in (top / "README.md", *sorted(top.glob("docs/**/*.md"))) if path.exists()
    ]


def figures(groups: dict[str, list[dict[str, Any]]]) -> "dict[Path, Drawing]":
    """Files that the documents show -> what has to be in them.

    Raises:
        InputError: no shipped run gives one of them.
    """
    from .drawings import drawings  # brings matplotlib, which asking `is_shipped` should not

    known = drawings(groups)
    found = {}
    top = ROOT.parent.parent
    for path in documents():
        for name in SHOWN.findall(path.read_text(encoding="utf-8")):
            if name not in known:
                raise InputError(f"{path}: shows {name}, and no shipped run gives it")
            found[top / "docs" / "figures" / name] = known[name]
    return found


def write() -> None:
    """Put numbers and figures into the documents."""
    groups = evaluations(ROOT)
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after = fill(before, groups)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"wrote {path}")
    for path, drawing in figures(groups).items():
        if not drawing.is_in(path):
            drawing.write(path)
            print(f"wrote {path}")


def check() -> list[str]:
    """Everything in which documents, shipped evaluations and re-evaluations differ, in lines."""
    problems = []
    for path in shipped(ROOT):
        try:
            found = check_run(path)
        except NoDataError as error:
            print(f"{path.relative_to(ROOT)}: not re-evaluated: {error}", flush=True)
            continue
        print(f"{path.relative_to(ROOT)}: {'differs' if found else 'as shipped'}", flush=True)
        problems += found
    groups = evaluations(ROOT)
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if fill(text, groups) != text:
            problems.append(f"{path}: its numbers are not those of the shipped runs")
    problems += [
        f"{path}: is not drawn from the shipped runs"
        for path, drawing in figures(groups).items()
        if not drawing.is_in(path)
    ]
    return problems


def main(argv: Sequence[str]) -> int:
    """Run one of the four commands."""
    try:
        match list(argv):
            case ["ship", run, group]:
                print(f"shipped {ship(Path(run), group, ROOT)}")
            case ["evaluate", group]:
                for path in shipped(ROOT):
                    if path.parent.name == group:
                        evaluate_shipped(path)
            case ["write"]:
                write()
            case ["check"]:
                problems = check()
                print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
                return 1 if problems else 0
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except MetarlError as error:
        print(f"results: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
