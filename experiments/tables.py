"""Numbers of README and docs as text, from the shipped evaluations and the paper's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import scaling
from .catalog import package_data

Groups = dict[str, list[dict[str, Any]]]

SINUSOID_GROUPS = {
    "sinusoid": "MAML, best preset",
    "sinusoid-paper": "MAML, paper's settings, alpha 0.01",
    "sinusoid-paper-alpha-001": "MAML, paper's settings, alpha 0.001",
    "sinusoid-first-order": "first order",
    "sinusoid-pretrained": "pretrained",
    "sinusoid-oracle": "oracle",
}
RETURN_GROUPS = {
    "": "MAML, best preset",
    "-held-out": "MAML, best preset, 200 other goals",
    "-paper": "MAML, paper's settings",
    "-linear": "MAML, paper's settings, linear surrogate",
    "-equal-steps": "MAML, steps of one length",
    "-first-order": "first order",
    "-pretrained": "pretrained",
    "-random": "random",
    "-oracle": "oracle",
}
SCALE = ("1x1", "1x2", "2x1", "skew", "calls", "bytes", "model/2x1")
ACCURACY_GROUPS = {"": "MAML", "-first-order": "first order", "-dense": "MAML, no convolutions"}
AUTHORS = {
    "maml": "MAML",
    "pretrained": "pretrained",
    "random": "random",
    "oracle": "oracle",
}


def over_seeds(groups: Groups, group: str) -> np.ndarray:
    """Mean over seeds of the mean over tasks, (K + 1,)."""
    means: np.ndarray = np.array([e["mean"] for e in groups[group]], dtype=float)
    return np.asarray(means.mean(0))


def mean(groups: Groups, group: str, steps: str, form: str = ".2f") -> str:
    """One number: the mean of a group's seeds after so many steps."""
    return format(float(over_seeds(groups, group)[int(steps)]), form)


def bench(groups: Groups, name: str, what: str, form: str = ".2f") -> str:
    """One measurement of `metarl bench`, from the shipped ``results/bench.json``."""
    return format(benches(name)[what], form)


def benches(name: str) -> dict[str, float]:
    """All measurements of a bench."""
    path = Path(__file__).parent / "results" / "bench.json"
    found: dict[str, float] = json.loads(path.read_text())["benches"][name]
    return found


def row(label: str, numbers: list[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join([label, *numbers]) + " |"


def ranks(groups: Groups, *experiments: str) -> str:
    """Threads against two ranks, as `metarl bench scale` measured them."""
    found = benches("scale")
    heads = ["1 x 1", "1 x 2", "2 x 1", "waiting", "calls", "bytes", "model"]
    lines = ["", row("", heads), row("---", ["---"] * len(heads))]
    for name in experiments:
        of = {what: found[f"{name}-{what}"] for what in SCALE}
        cells = [_seconds(of[what]) for what in ("1x1", "1x2", "2x1", "skew")]
        cells += [f"{of['calls']:.0f}", f"{of['bytes']:,.0f}", f"{of['model/2x1']:.2f}"]
        lines.append(row(name, cells))
    return "\n".join([*lines, ""])


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
    lines = ["", row("ranks", heads), row("---", ["---"] * len(heads))]
    for count in map(int, ranks):
        parts = scaling.seconds(costs, int(tasks), count)
        cells = [_seconds(x) for x in (*parts, parts.total)]
        lines.append(row(f"{count:,}", [*cells, f"{ideal / count / parts.total:.2f}"]))
    return "\n".join([*lines, ""])


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:,.{int(value < 10)}f} s"
    return f"{1000 * value:.{int(value < 0.01)}f} ms"


def sinusoid(groups: Groups) -> str:
    """5-shot loss after 1, 5 and 10 steps: ours over seeds (lowest to highest), and the paper's."""
    steps = [1, 5, 10]
    lines = [
        "",
        row("5-shot mean squared error after", [f"{k} step{'s' * (k > 1)}" for k in steps]),
        row("---", ["---"] * len(steps)),
    ]
    for group, label in SINUSOID_GROUPS.items():
        if group not in groups:
            continue
        seeds = np.array([e["mean"] for e in groups[group]], dtype=float)
        cells = [_span(seeds[:, k]) for k in steps]
        lines.append(row(f"{label}, ours ({len(seeds)} seed{'s' * (len(seeds) > 1)})", cells))
    for label, values in package_data("paper", "sinusoid")["5-shot"].items():
        numbers = [f"{values[str(k)]:.2f}" for k in steps]
        lines.append(row(f"{label}, the paper's", numbers))
    return "\n".join([*lines, ""])


def returns(groups: Groups, experiment: str) -> str:
    """Mean return on the paper's goals after 0..K steps, ours and the authors'.

    Over seeds the mean, and the lowest to the highest. The last row is ours minus the authors' MAML
    on the same goals: the mean over goals and its 95 % half-width.
    """
    theirs = {
        name: np.array(values)
        for name, values in package_data("paper", "returns")[experiment]["returns"].items()
    }
    steps = range(len(theirs["maml"]))
    lines = [
        "",
        row("mean return after", [f"{k} step{'s' * (k != 1)}" for k in steps]),
        row("---", ["---"] * len(steps)),
    ]
    for suffix, label in RETURN_GROUPS.items():
        if experiment + suffix not in groups:
            continue
        seeds = np.array([e["mean"] for e in groups[experiment + suffix]], dtype=float)
        cells = [_span(column, ".1f") for column in seeds.T]
        cells += [""] * (len(steps) - len(cells))
        lines.append(row(f"{label}, ours ({len(seeds)} seed{'s' * (len(seeds) > 1)})", cells))
    for name, label in AUTHORS.items():
        cells = [f"{x:.1f}" for x in theirs[name].mean(1)]
        lines.append(row(f"{label}, the authors'", cells + [""] * (len(steps) - len(cells))))
    if experiment in groups:
        ours = np.mean([e["per_task"] for e in groups[experiment]], axis=0)
        difference = ours - theirs["maml"]
        half = 1.96 * difference.std(1, ddof=1) / np.sqrt(difference.shape[1])
        cells = [f"{m:+.1f} ± {h:.1f}" for m, h in zip(difference.mean(1), half, strict=True)]
        lines.append(row("MAML, ours minus the authors', paired", cells))
    return "\n".join([*lines, ""])


def accuracies(groups: Groups, *settings: str) -> str:
    """Accuracy in per cent after the protocol's last step, ours and the published.

    One seed of ours with its 95 % half-width over tasks, several as the mean and the lowest to the
    highest; normalised as in the paper, by the query's own moments, and by the support's.

    Args:
        groups: evaluations.
        settings: groups, such as ``omniglot-5way-1shot``.
    """
    paper = package_data("paper", "images")
    columns = [paper["columns"].index(setting) for setting in settings]
    lines = ["", row("accuracy, %", list(settings)), row("---", ["---"] * len(settings))]
    for suffix, label in ACCURACY_GROUPS.items():
        runs = [groups.get(setting + suffix, []) for setting in settings]
        for note, key in (("", None), (", the support's moments", "support")):
            cells = [_accuracy(evaluations, key) for evaluations in runs]
            if any(cells):
                lines.append(row(f"{label}{note}, ours", cells))
    for label, values in paper["rows"].items():
        found = [values[column] for column in columns]
        if any(found):
            lines.append(row(f"{label}, published", [_published(value) for value in found]))
    return "\n".join([*lines, ""])


def _accuracy(evaluations: list[dict[str, Any]], moments: str | None) -> str:
    if not evaluations:
        return ""
    told: list[dict[str, Any]] = evaluations
    if moments is not None:
        told = [e["variants"][f"{moments}, {e['variants']['shots']} queries"] for e in evaluations]
    percent = np.array([100 * e["mean"][-1] for e in told])
    seeds = f"{len(told)} seed{'s' * (len(told) > 1)}"
    if len(told) > 1:
        return f"{_span(percent, '.1f')}, {seeds}"
    return f"{percent[0]:.1f} ± {100 * told[0]['ci95'][-1]:.1f}"


def _published(value: list[float | None] | None) -> str:
    if value is None:
        return ""
    mean, half = value
    return f"{100 * (mean or 0):.1f}" + ("" if half is None else f" ± {100 * half:.1f}")


def _span(values: np.ndarray, form: str | None = None) -> str:
    def text(value: float) -> str:
        return _short(value) if form is None else format(value, form)

    if not np.isfinite(values).all():
        return "not finite"
    if len(values) == 1:
        return text(values[0])
    return f"{text(values.mean())} ({text(values.min())} to {text(values.max())})"


def _short(value: float) -> str:
    """Two digits behind the point, or a power of ten where they would say nothing."""
    return f"{value:.2f}" if 0.1 <= value < 1000 else f"{value:.1e}"


KINDS: dict[str, Callable[..., str]] = {
    "accuracies": accuracies,
    "bench": bench,
    "carried": carried,
    "mean": mean,
    "ranks": ranks,
    "returns": returns,
    "sinusoid": sinusoid,
}
