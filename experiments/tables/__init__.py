"""Numbers of README and docs as text, from the shipped evaluations and the paper's."""

from collections.abc import Callable

from .accuracies import accuracies
from .benches import bench, carried, ranks
from .returns import policies, returns
from .rows import Groups, over_seeds
from .sinusoid import sinusoid


def mean(groups: Groups, group: str, steps: str, form: str = ".2f") -> str:
    """One number: the mean of a group's seeds after so many steps."""
    return format(float(over_seeds(groups, group)[int(steps)]), form)


# What may stand behind ``results:`` in a document.
KINDS: dict[str, Callable[..., str]] = {
    "accuracies": accuracies,
    "bench": bench,
    "carried": carried,
    "mean": mean,
    "policies": policies,
    "ranks": ranks,
    "returns": returns,
    "sinusoid": sinusoid,
}
