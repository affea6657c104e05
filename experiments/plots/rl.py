"""Figures of meta-policies: what adaptation gains, on which tasks, and how training went."""

import inspect
import re
from collections.abc import Sequence
from importlib import import_module

import gymnasium
import numpy as np

import metarl_envs

from ..catalog import EXPERIMENTS, package_data
from ..configs.rl import EnvConfig, EvaluateOptions
from ..evaluation.evaluate import Loaded
from ..family import mean_and_ci95
from ..options import preset_config
from ..rl.environments import NAVIGATION, PAPER_GOALS
from ..rl.episodes import learner_of
from ..tables.returns import AUTHORS
from ..words import count
from .curves import Curve, adaptation_curves
from .diagnostics import diagnostics
from .learning import Line, learning_curves
from .paths import paths
from .stills import stills
from .style import Figure
from .tasks import against_task, before_after

# Shipped groups, <experiment><suffix>, drawn beside the runs where a checkout has them.
SHIPPED = {
    "": "MAML (shipped)",
    "-paper": "paper's settings (shipped)",
    "-linear": "linear surrogate (shipped)",
    "-equal-steps": "steps of one length (shipped)",
    "-first-order": "first order (shipped)",
    "-pretrained": "pretrained (shipped)",
    "-random": "random (shipped)",
    "-oracle": "oracle (shipped)",
}


def shipped_groups(runs: Sequence[Loaded]) -> dict[str, str]:
    """Groups of shipped runs to stand beside these: none where the environment is another."""
    experiment = runs[0].experiment
    if any(not _as_shipped(loaded, experiment.name) for loaded in runs):
        return {}
    return {f"{experiment.name}{suffix}": label for suffix, label in SHIPPED.items()}


def notes(runs: Sequence[Loaded]) -> list[tuple[str, str]]:
    """The environment's card, with those that it refers to; of a user's, its class's docstring."""
    learner = learner_of(runs[0])
    world = metarl_envs.WORLDS.get(learner.config.env.id)
    if world is None:
        with gymnasium.make(learner.config.env.id, disable_env_checker=True) as made:
            kind = type(made.unwrapped)
        card = inspect.cleandoc(kind.__doc__ or "")
        return [(f"environment card: {kind.__name__}", card)] if card else []
    module, _, name = world.partition(":")
    named = vars(import_module(module))
    text = inspect.getdoc(named[name]) or ""
    others = dict.fromkeys(re.findall(r"``(\w+)``", text))
    known = [name, *(other for other in others if inspect.isclass(named.get(other)))]
    return [
        (f"environment card: {card}", inspect.getdoc(named[card]) or "")
        for card in dict.fromkeys(known)
    ]


def figures(
    runs: Sequence[tuple[str, Loaded]],
    curves: Sequence[Curve],
    lines: Sequence[Line],
    shown: Sequence[Curve],
    options: EvaluateOptions,
    *,
    alone: bool = False,
) -> list[Figure]:
    """Adaptation and learning curves; for each run its tasks, its training, its paths.

    Args:
        runs: label and run.
        curves: their evaluations.
        lines: the runs, seeds as one.
        shown: the adaptation curves of these lines, and of shipped runs beside them.
        options: of the evaluations.
        alone: without published numbers.
    """
    learning = learning_curves(lines, cost=("env_steps", "environment steps of training"))
    theirs = [] if alone else authors(runs, curves)
    made = [adaptation_curves([*shown, *theirs], note=_note(shown, theirs))]
    made += [] if learning is None else [learning]
    for index, (label, loaded) in enumerate(runs):
        evaluation = curves[index].evaluation
        config = learner_of(loaded).config
        own = config.env.id in metarl_envs.WORLDS
        drawn = [
            *against_task(label, evaluation, units=own),
            before_after(label, evaluation),
            diagnostics(label, loaded.record.metrics, config),
        ]
        if config.env.id == NAVIGATION:
            drawn.append(paths(label, loaded, options))
        elif own:
            drawn.append(stills(label, loaded, options))
        found = [figure for figure in drawn if figure is not None]
        if index > 0:
            found = [
                figure._replace(name=f"{figure.name}-{index + 1}", title=f"{figure.title}: {label}")
                for figure in found
            ]
        made += found
    return made


def authors(runs: Sequence[tuple[str, Loaded]], curves: Sequence[Curve]) -> list[Curve]:
    """The authors' curves, from their returns on each goal; only for runs on the same goals.

    The environment has to be the paper's too: its physics, rewards and horizon.
    """
    env = learner_of(runs[0][1]).config.env
    name = PAPER_GOALS.get(env.id, ("", ""))[0]
    evaluations = [curve.evaluation for curve in curves[: len(runs)]]
    same = all(_as_shipped(loaded, name) for _, loaded in runs)
    if not same or any(evaluation["task_seed"] != "paper" for evaluation in evaluations):
        return []
    return published(name, evaluations[0]["tasks"])


def published(name: str, tasks: int) -> list[Curve]:
    """The authors' curves of an experiment, over its first ``tasks`` goals."""
    returns = package_data("paper", "returns")[name]["returns"]
    return [
        Curve(
            f"{AUTHORS[method]} (authors)",
            {"metric": "return", **mean_and_ci95(np.array(per_goal)[:, :tasks])},
            published=True,
        )
        for method, per_goal in returns.items()
    ]


def _as_shipped(loaded: Loaded, name: str) -> bool:
    """Whether a run's environment is that of the experiment's faithful preset."""
    if name not in EXPERIMENTS or "paper" not in EXPERIMENTS[name].presets():
        return False
    faithful: EnvConfig = preset_config(EXPERIMENTS[name], "paper").env
    return learner_of(loaded).config.env == faithful


def _note(ours: Sequence[Curve], theirs: Sequence[Curve]) -> str:
    note = (
        f"Returns are undiscounted sums of rewards, means over {_episodes(ours)} "
        "that the stochastic policy plays anew before each step. A method that takes no steps is "
        "a level line."
    )
    if theirs:
        note += (
            " Dashed with open marks: the authors' own results (Finn et al. 2017), from their "
            "returns on the same goals."
        )
    return note


def _episodes(curves: Sequence[Curve]) -> str:
    """How many episodes of a task; by curve where the numbers differ."""
    counts = {curve.label: curve.evaluation["variants"]["episodes"] for curve in curves}
    if len(set(counts.values())) == 1:
        return count(counts[curves[0].label], "episode")
    return f"episodes ({', '.join(f'{label}: {number}' for label, number in counts.items())})"
