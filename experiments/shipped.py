"""Shipped runs: pruned into ``results/<group>/seed-<n>``, with their evaluations beside them."""

from pathlib import Path
from typing import Any

import numpy as np

from metarl.runs import prune_run, read_config, read_json, write_json
from metarl.runs.reading import EVALUATION

from .catalog import Experiment
from .evaluate import evaluate, load

ROOT = Path(__file__).resolve().parent / "results"
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
