"""Measurements of `metarl bench`, and what follows from them for many ranks."""

import json
from pathlib import Path

from ..bench.parts import scaling
from .rows import Groups, row, table

SCALE = ("1x1", "1x2", "2x1", "skew", "calls", "bytes", "model/2x1")


def bench(groups: Groups, name: str, what: str, form: str = ".2f") -> str:
    """One measurement of `metarl bench`, from the shipped ``results/bench.json``."""
    return format(benches(name)[what], form)


def benches(name: str) -> dict[str, float]:
    """All measurements of a bench."""
    path = Path(__file__).parent.parent / "results" / "bench.json"
    found: dict[str, float] = json.loads(path.read_text())["benches"][name]
    return found


def ranks(groups: Groups, *experiments: str) -> str:
    """Threads against two ranks, as `metarl bench scale` measured them."""
    found = benches("scale")
    heads = ["1 x 1", "1 x 2", "2 x 1", "waiting", "calls", "bytes", "model"]
    lines = []
    for name in experiments:
        of = {what: found[f"{name}-{what}"] for what in SCALE}
        cells = [_seconds(of[what]) for what in ("1x1", "1x2", "2x1", "skew")]
        cells += [f"{of['calls']:.0f}", f"{of['bytes']:,.0f}", f"{of['model/2x1']:.2f}"]
        lines.append(row(name, cells))
    return table("", heads, lines)


def carried(groups: Groups, name: str, measured: str, tasks: str, *ranks: str) -> str:
    """The cost model of `scaling` for many tasks on many ranks.

    Args:
        groups: evaluations; not used.
        name: the experiment.
        measured: tasks of the iterations that the bench measured.
        tasks: of an iteration.
        ranks: a row each.
    """
    costs = scaling.costs(benches("scale"), name, int(measured))
    ideal = scaling.seconds(costs, int(tasks), 1).total
    heads = ["own tasks", "waiting", "calls", "in all", "of the ideal"]
    lines = []
    for count in map(int, ranks):
        parts = scaling.seconds(costs, int(tasks), count)
        cells = [_seconds(x) for x in (*parts, parts.total)]
        lines.append(row(f"{count:,}", [*cells, f"{ideal / count / parts.total:.2f}"]))
    return table("ranks", heads, lines)


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:,.{int(value < 10)}f} s"
    return f"{1000 * value:.{int(value < 0.01)}f} ms"
