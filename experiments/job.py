"""What `make train` runs: train an experiment, evaluate it, draw it, say where the figures are."""

import sys
from collections.abc import Callable, Sequence

from .__main__ import guarded
from .options import find_experiment, value_of


def run(argv: Sequence[str]) -> int:
    """Train ``argv[0]`` with the further options, then evaluate and report."""
    from .commands import evaluate, report, train

    experiment = find_experiment(argv[0])
    options = list(argv[1:])
    if experiment.job_minutes is not None and value_of(options, "--minutes") is None:
        options += ["--minutes", str(experiment.job_minutes)]
    status, out = train.train_experiment(experiment, options)
    steps: tuple[Callable[[Sequence[str]], int], ...] = (evaluate.run, report.run)
    for step in steps:
        status = status or step([str(out)])
    return status


if __name__ == "__main__":
    sys.exit(guarded("train", lambda: run(sys.argv[1:])))
