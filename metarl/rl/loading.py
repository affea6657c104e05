"""Meta-policies from the runs that trained them, and what a run's configuration says of one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metarl.devices import find_device
from metarl.errors import InputError, first_line
from metarl.inner import InnerLoop
from metarl.params import Params, split_rates
from metarl.runs import read_config, read_snapshot

from .metapolicy import MetaPolicy, bare_id
from .policies import CategoricalMLP, GaussianMLP, in_head
from .weighting import Weighting


def load(run: str | Path, *, last: bool = False, device: str = "cpu") -> MetaPolicy:
    """The meta-policy of a run directory, by its config.json and its checkpoint.

    Args:
        run: what ``metarl train`` wrote, finished or not.
        last: the last checkpoint, not the best by validation.
        device: of the policy, see `find_device`.

    Raises:
        InputError: there is no run, no checkpoint yet, none of a policy of this version, or no
            such device.
        CheckpointError: no checkpoint verifies.
    """
    device = find_device(device)
    config = read_config(run)
    name, values = config.get("experiment"), config.get("config")
    if isinstance(values, dict) and "env" not in values:
        raise InputError(f"{run} is a run of {name}; metarl.rl.load takes policies")
    snapshot = read_snapshot(run, last=last)
    try:
        return _built(config["config"], _tensors(snapshot.params, device))
    except (KeyError, TypeError, AttributeError, RuntimeError, InputError) as error:
        told = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{run} holds no policy of this version ({name}): {told}") from None


def _tensors(arrays: Mapping[str, Any], device: str) -> Params:
    return {name: torch.from_numpy(array.copy()).to(device) for name, array in arrays.items()}


def _built(config: Mapping[str, Any], theta: Params) -> MetaPolicy:
    env, hidden = config["env"], config["hidden"]
    params, _ = split_rates(theta)
    # Weights that are replaced draw nothing from torch's global generator.
    drawn = torch.Generator()
    shared: Any = {"hidden": hidden, "activation": config["activation"], "generator": drawn}
    if "log_std" in params:
        module: nn.Module = GaussianMLP(
            params["mean.layers.0.weight"].shape[1],
            len(params["log_std"]),
            min_std=config["min_std"],
            **shared,
        )
    else:
        head = params[f"logits.layers.{len(hidden)}.weight"]
        module = CategoricalMLP(params["logits.layers.0.weight"].shape[1], len(head), **shared)
    return MetaPolicy(
        theta,
        module,
        inner_loop(config, evaluating=True),
        inner_steps=config["inner_steps"],
        later_lr_factors=tuple(config["later_lr_factors"]),
        inner_surrogate=config["inner_surrogate"],
        weighting=weighting(config),
        episodes=config["evaluation_episodes"] or config["episodes"],
        horizon=env["horizon"],
        env_id=env["id"],
        env_options=env_options(env, observe_task=config["observe_task"]),
    )


def inner_loop(config: Mapping[str, Any], *, evaluating: bool = False) -> InnerLoop:
    """How tasks adapt; ``evaluating``: where no inner step was trained, by another step size."""
    lr = config["evaluation_lr"] if evaluating else None
    return InnerLoop(
        config["inner_lr"] if lr is None else lr,
        config["first_order"],
        adapted=None if config["adapted"] == "all" else in_head(len(config["hidden"])),
    )


def weighting(config: Mapping[str, Any]) -> Weighting:
    """How rewards become weights."""
    return Weighting(
        config["discount"],
        config["gae_lambda"],
        config["bootstrap_time_limit"],
        inner_gae_lambda=config["inner_gae_lambda"],
        best_reward=config["best_reward"],
    )


def env_options(env: Mapping[str, Any], *, observe_task: bool) -> dict[str, Any]:
    """Arguments that the environment is made with; only metarl's own take any."""
    if not bare_id(env["id"]).startswith("metarl/"):
        return {}
    options = {"physics": env["physics"], "horizon": env["horizon"], "observe_task": observe_task}
    if env["task_range"] is not None:
        options["task_range"] = tuple(env["task_range"])
    if env["sparse"]:
        options["sparse"] = True
    return options
