"""Runs of a page that are alike but for their seed, and what sets the others apart."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from metarl.errors import InputError

from ..configs.flat import flat
from ..evaluation.evaluate import Loaded
from ..options import preset_config
from ..plots.curves import Curve
from ..words import count

# Of a configuration: what does not decide how a run is trained.
ASIDE = ("log_every", "validate_every", "data")
Runs = Sequence[tuple[str, Loaded]]


def alike(runs: Runs, curves: Sequence[Curve]) -> Iterator[tuple[str, list[int]]]:
    """Each set of two or more runs that differ by their seed alone: what it is called, and rows.

    That is what the names of its runs have in common, or the preset; where sets would be called
    the same, the names of its runs.

    Args:
        runs: label and run.
        curves: their evaluations, of as many steps and the same tasks in a set.
    """
    sets: dict[str, list[int]] = {}
    for i, (_, one) in enumerate(runs):
        whole = one.record.config
        config = {k: v for k, v in whole["config"].items() if k not in ASIDE}
        measured = [curves[i].evaluation.get(name) for name in ("steps", "tasks", "task_seed")]
        key = (config, whole["from"], whole["machine"]["dtype"], measured)
        sets.setdefault(json.dumps(key, sort_keys=True), []).append(i)
    found: dict[str, str] = {}
    for alike_by, rows in sets.items():
        seeds = [runs[i][1].record.config["seed"] for i in rows]
        if len(rows) > 1 and len(set(seeds)) == len(seeds):
            found[alike_by] = f"{_name(runs, rows)}, seeds {', '.join(map(str, sorted(seeds)))}"
    for alike_by, told in found.items():
        rows = sets[alike_by]
        alone = list(found.values()).count(told) == 1
        yield told if alone else ", ".join(runs[i][0] for i in rows), rows


def _name(runs: Runs, rows: Sequence[int]) -> str:
    shared = os.path.commonprefix([runs[i][0] for i in rows])  # noqa: RUF071  (of letters, it is)
    own = re.sub(r"\W*_*(seed)?\W*_*$", "", shared)
    return own or str(runs[rows[0]][1].record.config["preset"])


def options_of(loaded: Loaded) -> list[str]:
    """Options by which a run differs from its preset, ``name value``."""
    record = loaded.record.config
    try:
        usual = asdict(preset_config(loaded.experiment, record["preset"]))
    except InputError:  # of another version
        return []
    before = dict(flat(usual))
    return [
        f"{'.'.join(path)} {_plain(value)}"
        for path, value in flat(asdict(loaded.config))
        if value != before.get(path) and path[-1] not in ASIDE
    ]


def _plain(value: Any) -> str:
    several = isinstance(value, list | tuple)
    return " ".join(map(str, value)) if several else str(value)


def sets(runs: Runs, curves: Sequence[Curve]) -> list[tuple[str, list[int]]]:
    """All runs in their order: those that are `alike` as one set, each other by itself."""
    merged = {rows[0]: (told, rows) for told, rows in alike(runs, curves)}
    hidden = {i for _, rows in merged.values() for i in rows[1:]}
    alone = ((label, [i]) for i, (label, _) in enumerate(runs))
    return [merged.get(i, one) for i, one in enumerate(alone) if i not in hidden]


def seeds_together(runs: Runs, curves: Sequence[Curve]) -> list[list[str]]:
    """Runs alike but for their seed: mean, lowest and highest of their means after each step.

    Returns:
        Rows, the first of the names of the columns; none where no two runs are alike.
    """
    rows: list[list[str]] = []
    for told, group in alike(runs, curves):
        means = [curves[i].evaluation["mean"] for i in group]
        cells = [_mean_and_range(column) for column in zip(*means, strict=True)]
        rows.append([told + _lengths([runs[i][1].record.metrics for i in group]), *cells])
    head = ["runs", *(count(k, "step") for k in range(max(map(len, rows), default=1) - 1))]
    return [head, *rows] if rows else []


def _lengths(metrics: Sequence[Sequence[dict[str, Any]]]) -> str:
    """How long runs were trained, where that differs, as after an interruption."""
    reached = [records[-1]["iteration"] if records else 0 for records in metrics]
    low, high = min(reached), max(reached)
    return "" if low == high else f" ({low} to {high} iterations)"


def _mean_and_range(values: Sequence[float | None]) -> str:
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return "–"
    return f"{sum(finite) / len(finite):.3g} ({min(finite):.3g} to {max(finite):.3g})"
