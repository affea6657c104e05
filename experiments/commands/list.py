"""`metarl list`: the experiments, one line each."""

from collections.abc import Sequence

from ..catalog import EXPERIMENTS


def run(argv: Sequence[str]) -> int:
    """Print name, presets and summary of every experiment."""
    if argv and argv[0] in ("-h", "--help"):
        print("usage: metarl list")
        return 0
    if argv:
        from metarl.errors import InputError

        raise InputError(f"{argv[0]}: `metarl list` takes no arguments")
    width = max(map(len, EXPERIMENTS))
    for experiment in EXPERIMENTS.values():
        presets = ", ".join(experiment.presets())
        print(f"{experiment.name:<{width}}  {experiment.summary}  [{presets}]")
    return 0
