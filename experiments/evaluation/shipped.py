"""Shipped runs: pruned into ``results/<group>/seed-<n>``, with their evaluations beside them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from metarl.errors import InputError
from metarl.runs import prune_run, read_config, read_json, write_json
from metarl.runs.files import real
from metarl.runs.layout import EVALUATION

from ..catalog import Experiment
from .evaluate import evaluate, load
from .evaluations import check_evaluation

ROOT = Path(__file__).resolve().parents[1] / "results"
HELD_OUT = "held-out.json"
# A re-evaluation on another machine rounds differently, and contacts amplify that.
TOLERANCE_OF_CI95 = 0.1


def is_shipped(path: Path) -> bool:
    """Whether a path is or lies under the shipped results."""
    return real(path).is_relative_to(ROOT)


def shipped(root: Path) -> list[Path]:
    """The shipped run directories, ``<group>/seed-<n>``."""
    return sorted(config.parent for config in root.glob("*/seed-*/config.json"))


def protocols(experiment: Experiment, group: str) -> dict[str, Any]:
    """File -> options of the evaluations that are shipped of a group's runs.

    Those of the default preset of some families are measured on further tasks, see `FamilyConfig`.
    """
    configs = experiment.configs()
    found = {EVALUATION: configs.EvaluateOptions()}
    if configs.Config.held_out and group == experiment.name:
        found[HELD_OUT] = configs.EvaluateOptions(**configs.Config.held_out)
    return found


def ship(run: Path, group: str, root: Path) -> Path:
    """Prune a finished run, evaluate it, and put it into ``results/<group>/seed-<n>`` as a whole.

    Raises:
        InputError: that exists, or ``run`` is no run with a checkpoint.
    """
    target = root / group / f"seed-{read_config(run)['seed']}"
    if target.exists():
        raise InputError(f"{target} exists; remove it first")
    # Evaluating takes minutes, and what lacks its evaluations is not a shipped run.
    unevaluated = root / group / f"unevaluated-{target.name}"
    shutil.rmtree(unevaluated, ignore_errors=True)
    prune_run(run, unevaluated)
    _evaluate(unevaluated, target)
    unevaluated.rename(target)
    return target


def evaluate_shipped(path: Path) -> None:
    """Evaluate a shipped run by all its protocols, and keep what was found with it."""
    _evaluate(path, path)


def _evaluate(path: Path, shipped_as: Path) -> None:
    loaded, group = load(path), path.parent.name
    for file, options in protocols(loaded.experiment, group).items():
        result = evaluate(loaded, options)
        result["run"] = f"experiments/results/{group}/{shipped_as.name}"
        write_json(path / file, result)


def check_run(path: Path) -> list[str]:
    """Re-evaluate a shipped run; what differs from the evaluations beside it, in lines."""
    loaded = load(path)
    problems = []
    for file, options in protocols(loaded.experiment, path.parent.name).items():
        if (path / file).exists():
            found = evaluate(loaded, options)
            problems += differences(found, read_json(path / file), path / file)
        else:
            problems.append(f"{path}: has no {file}")
    return problems


def differences(found: dict[str, Any], told: dict[str, Any], file: Path) -> list[str]:
    """What a re-evaluation found otherwise than a file says, in lines."""
    try:
        check_evaluation(told, found["experiment"], file)
    except InputError as error:
        return [str(error)]
    problems = [
        f"{file}: {name} is told as {told[name]}, and is {found[name]}"
        for name in ("iteration", "metric", "task_seed", "tasks", "steps")
        if found[name] != told[name]
    ]
    if problems:
        return problems
    ours, theirs = _curves(found), _curves(told)
    problems = [
        f"{file}: {name} is {'not told' if name in ours else 'told, and not found'}"
        for name in sorted(ours.keys() ^ theirs.keys())
    ]
    for name in theirs:
        if name in ours:
            where = f"{file}: {name} after" if name else f"{file}: after"
            problems += _far(ours[name], theirs[name], where)
    return problems


def _curves(evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The curve, named nothing, and those among its variants: name -> ``mean`` and ``ci95``."""
    return {"": evaluation} | {
        name: value
        for name, value in evaluation["variants"].items()
        if isinstance(value, dict) and {"mean", "ci95"} <= value.keys()
    }


def _far(found: dict[str, Any], told: dict[str, Any], where: str) -> list[str]:
    """The points of a told curve that are further from the found one than rounding brings them."""
    tolerance = TOLERANCE_OF_CI95 * np.array(told["ci95"], dtype=float) + 1e-6
    problems = []
    for name, sign in (("mean", ""), ("ci95", "+-")):
        ours, theirs = (np.array(curve[name], dtype=float) for curve in (found, told))
        if not ours.shape == theirs.shape == tolerance.shape:
            return [f"{where} {len(ours) - 1} steps it ends, and is told to do so elsewhere"]
        same = np.isnan(ours) & np.isnan(theirs)
        problems += [
            f"{where} {k} steps {sign}{told[name][k]} is told, and found {sign}{found[name][k]}"
            for k in np.flatnonzero(~same & ~(np.abs(ours - theirs) <= tolerance))
        ]
    return problems


def evaluations(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Group -> the evaluations of its seeds, in the order of seeds.

    Those on other tasks than the protocol's are the group ``<group>-held-out``.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for suffix, file in (("", EVALUATION), ("-held-out", HELD_OUT)):
        for path in sorted(root.glob(f"*/seed-*/{file}")):
            groups.setdefault(path.parent.parent.name + suffix, []).append(read_json(path))
    return groups
