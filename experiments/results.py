"""The shipped runs, and the numbers of README and docs that come from them, kept in step.

    python -m metarl_experiments.results ship RUN GROUP    add RUN as results/GROUP/seed-<n>
    python -m metarl_experiments.results evaluate GROUP    evaluate a group's runs anew
    python -m metarl_experiments.results write             put numbers, figures into documents
    python -m metarl_experiments.results check             re-evaluate; fail where any differs

`documents` says how a document names a number or a figure.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from metarl.errors import InputError, MetarlError, NoDataError

from .evaluation.shipped import ROOT, check_run, evaluate_shipped, evaluations, ship, shipped
from .reporting.documents import documents, figures, fill


def evaluate_group(group: str) -> None:
    """Evaluate the runs of a group anew.

    Raises:
        InputError: there is no such group.
    """
    runs = [path for path in shipped(ROOT) if path.parent.name == group]
    if not runs:
        groups = dict.fromkeys(path.parent.name for path in shipped(ROOT))
        raise InputError(f"GROUP: there is no {group}, only {', '.join(groups)}")
    for path in runs:
        evaluate_shipped(path)


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
                evaluate_group(group)
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
