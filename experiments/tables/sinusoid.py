"""Losses on sinusoids, ours and the paper's."""

import numpy as np

from ..catalog import package_data
from ..words import count
from .rows import Groups, row, span, table

SINUSOID_GROUPS = {
    "sinusoid": "MAML, default preset",
    "sinusoid-paper": "MAML, paper's settings, alpha 0.01",
    "sinusoid-paper-alpha-001": "MAML, paper's settings, alpha 0.001",
    "sinusoid-first-order": "first order",
    "sinusoid-pretrained": "pretrained",
    "sinusoid-oracle": "oracle",
}


def sinusoid(groups: Groups) -> str:
    """5-shot loss after 1, 5 and 10 steps: ours over seeds (lowest to highest), and the paper's.

    Beside ours the median after the last, and how many of the tasks it left worse than unadapted: a
    few that diverge decide a mean.
    """
    steps = [1, 5, 10]
    lines = []
    for group, label in SINUSOID_GROUPS.items():
        if group not in groups:
            continue
        seeds = np.array([e["mean"] for e in groups[group]], dtype=float)
        cells = [span(seeds[:, k]) for k in steps]
        medians = np.array([e["variants"]["median"][-1] for e in groups[group]], dtype=float)
        cells.append(span(medians))
        worse = [e["variants"]["worse_than_unadapted"][-1] for e in groups[group]]
        moves = not np.allclose(seeds[:, 0], seeds[:, -1], rtol=1e-4)  # else rounding would count
        cells.append(", ".join(map(str, worse)) if moves else "")
        lines.append(row(f"{label}, ours ({count(len(seeds), 'seed')})", cells))
    for label, values in package_data("paper", "sinusoid")["5-shot"].items():
        numbers = [f"{values[str(k)]:.2f}" for k in steps]
        lines.append(row(f"{label}, the paper's", [*numbers, "", ""]))
    columns = [count(k, "step") for k in steps]
    columns += ["10 steps, median", "tasks made worse"]
    return table("5-shot mean squared error after", columns, lines)
