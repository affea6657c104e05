"""Figures and a page from runs, wherever each family keeps its figures."""

import csv
import io
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from metarl.errors import InputError, RunWarning, SaveError
from metarl.runs.files import real, replace, saving
from metarl.runs.layout import EVALUATION
from metarl.runs.reading import read_object

from ..evaluation.comparison import task_difference, unlike_tasks
from ..evaluation.evaluate import Loaded, default_file, evaluate, load
from ..evaluation.evaluations import check_evaluation, digest, tasks_told
from ..evaluation.shipped import ROOT, is_shipped
from ..plots.curves import Curve, mean_of_seeds
from ..plots.learning import Line
from ..plots.page import figures_of, page
from ..plots.style import Figure
from ..words import count
from .labels import labels
from .together import options_of, seeds_together, sets
from .view import write_evaluation

SHOWN_VERSIONS = ("metarl-policies", "torch", "mujoco", "gymnasium", "python")


def report(
    paths: Sequence[Path],
    out: Path,
    options: Any = None,
    *,
    alone: bool = False,
    device: str | None = None,
    data: str | None = None,
) -> Path:
    """Write PNG, PDF and CSV of every figure, and ``index.html`` that holds them; the page's path.

    Args:
        paths: runs of one experiment.
        out: directory, created where needed.
        options: of the evaluations shown, the family's ``EvaluateOptions``; its default by default.
        alone: without shipped runs and published numbers beside these runs.
        device: to compute on, see `load`.
        data: root of an image data set, likewise.

    Raises:
        InputError: runs of different experiments or environments, or no run.
        SaveError: the directory cannot be written.
    """
    named = zip(labels(paths), paths, strict=True)
    runs = [(label, load(path, device=device, data=data)) for label, path in named]
    experiment = runs[0][1].experiment
    options = experiment.configs().EvaluateOptions() if options is None else options
    _check_one_page(runs, options)
    module = experiment.plots()
    loaded = [one for _, one in runs]
    with _folder(out):
        curves = [Curve(label, evaluation_of(one, options)) for label, one in runs]
        together = sets(runs, curves)
        lines = [Line(told, [loaded[i] for i in rows]) for told, rows in together]
        shown = [
            Curve(told, mean_of_seeds([curves[i].evaluation for i in rows]))
            for told, rows in together
        ]
        if not alone:
            shown += shipped_curves(module.shipped_groups(loaded), paths, curves)
        figures: list[Figure] = module.figures(runs, curves, lines, shown, options, alone=alone)
    _remove_others(out, {figure.name for figure in figures})
    for figure in figures:
        replace(out / f"{figure.name}.png", figure.light)
        replace(out / f"{figure.name}.pdf", figure.pdf)
        replace(out / f"{figure.name}.csv", _csv(figure))
    seeds = seeds_together(runs, curves)
    text = page(
        f"{experiment.name}: {', '.join(label for label, _ in runs)}",
        figures,
        [
            ("What was run", _made(runs, curves)),
            ("After adaptation, mean and 95\u00a0% half-width", rows_of(curves)),
            *([("Seeds together, mean and range of the runs' means", seeds)] if seeds else []),
        ],
        [
            *module.notes(loaded),
            *(
                (f"{label}: configuration and versions", json.dumps(one.record.config, indent=1))
                for label, one in runs
            ),
        ],
    )
    replace(out / "index.html", text.encode())
    return out / "index.html"


def _remove_others(out: Path, names: set[str]) -> None:
    """Remove an earlier report's figures of other names, which would pass for this one's."""
    try:
        earlier = figures_of((out / "index.html").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return
    with saving(out):
        for name in set(earlier) - names:
            for suffix in (".png", ".pdf", ".csv"):
                (out / Path(f"{name}{suffix}").name).unlink(missing_ok=True)


@contextmanager
def _folder(out: Path) -> Iterator[None]:
    """Make the directory before the work that takes minutes; without it, none is left."""
    made = [path for path in (out, *out.parents) if not os.path.lexists(path)]
    try:
        with saving(out):
            out.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise


def _check_one_page(runs: Sequence[tuple[str, Loaded]], options: Any) -> None:
    """Refuse runs whose numbers mean different things, and evaluations that are none."""
    first = runs[0][1]
    for label, one in runs:
        if one.experiment != first.experiment:
            raise InputError(
                f"RUN: {label} is of {one.experiment.name}, the first of {first.experiment.name}; "
                "a page holds runs of one experiment"
            )
        difference = task_difference(first, one, options)
        if difference is not None:
            mend = one.config.mends.get(difference.partition(" ")[0], "; report them apart")
            raise InputError(f"RUN: {label}: {difference}{mend}")
    for _, one in runs:
        _written(one, options)


def _file(loaded: Loaded, options: Any) -> Path:
    """Where `metarl evaluate` writes this protocol's numbers of a run."""
    return default_file(loaded.record.path, options, last=False, compare=())


def _written(loaded: Loaded, options: Any) -> dict[str, Any] | None:
    """What `metarl evaluate` has written of a run by this protocol; None where it has not."""
    file = _file(loaded, options)
    told = read_object(file)
    if told is not None:
        check_evaluation(told, loaded.experiment.name, file)
    return told


def evaluation_of(loaded: Loaded, options: Any) -> dict[str, Any]:
    """The run's evaluation by this protocol, made and kept where it is missing or old."""
    told = _written(loaded, options)
    if told is not None:
        # Those from before digests are told apart by their iteration alone.
        of = told["variants"].get("parameters", digest(loaded.params))
        if told["iteration"] == loaded.record.snapshot.iteration and of == digest(loaded.params):
            return told
    result = evaluate(loaded, options)
    if not is_shipped(loaded.record.path):
        try:
            write_evaluation(_file(loaded, options), loaded.record.path, result)
        except SaveError as error:  # kept for the next time, which a run of others may not allow
            warnings.warn(f"{error}; the page has it all the same", RunWarning, stacklevel=2)
    return result


def shipped_curves(
    groups: dict[str, str], paths: Sequence[Path], curves: Sequence[Curve]
) -> list[Curve]:
    """First seeds of shipped groups that a checkout has and the page does not show anyway.

    Args:
        groups: and their labels.
        paths: of the runs on the page.
        curves: theirs; shipped ones were measured on the same tasks.
    """
    shown = {real(path) for path in paths}
    found: list[Curve] = []
    for group, label in groups.items():
        for path in sorted((ROOT / group).glob("seed-*"))[:1]:
            told = None if path in shown else read_object(path / EVALUATION)
            if told is not None and not any(unlike_tasks(told, c.evaluation) for c in curves):
                found.append(Curve(label, told))
    return found


def _made(runs: Sequence[tuple[str, Loaded]], curves: Sequence[Curve]) -> list[list[str]]:
    """What each run is, and what it was evaluated on; the first row names the columns."""
    rows = [["run", "preset", "but for", "seed", "checkpoint", "evaluated on", *SHOWN_VERSIONS]]
    for (label, one), curve in zip(runs, curves, strict=True):
        config = one.record.config
        checkpoint = f"iteration {one.record.snapshot.iteration}"
        versions = (config["versions"].get(name, "–") for name in SHOWN_VERSIONS)
        but_for = ", ".join(options_of(one)) or "–"
        evaluated = tasks_told(curve.evaluation)
        made = (config["preset"], but_for, config["seed"], checkpoint, evaluated)
        rows.append([label, *map(str, made), *map(str, versions)])
    return rows


def rows_of(curves: Sequence[Curve]) -> list[list[str]]:
    """Means and half-widths after each step, as text; the first row names the columns."""
    steps = max(curve.evaluation["steps"] for curve in curves)
    rows = [["run", *(count(k, "step") for k in range(steps + 1))]]
    for label, evaluation, _ in curves:
        pairs = zip(evaluation["mean"], evaluation["ci95"], strict=True)
        cells = [_with_half(*pair) for pair in pairs]
        rows.append([label, *cells, *[""] * (steps + 1 - len(cells))])
    return rows


def _with_half(mean: float | None, half: float | None) -> str:
    if mean is None:
        return "–"
    return f"{mean:.3g}" if half is None else f"{mean:.3g} ± {half:.2g}"  # none of a single task


def _csv(figure: Figure) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(figure.rows)
    return buffer.getvalue().encode()
