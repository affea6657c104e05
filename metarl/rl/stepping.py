"""The loop over time: a policy and one vector environment, every row one episode."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from metarl.threads import callers_device

from . import vector
from .distributions import Distribution, Gaussian, sample
from .rollout import Rollout

Bools = NDArray[np.bool_]


def run_episodes(
    env: VectorEnv[Any, Any, Any],
    observations: NDArray[Any],
    act: Callable[[Tensor], Distribution],
    noise: Tensor,
    out: Rollout,
    *,
    to_env: Callable[[NDArray[Any]], NDArray[Any]],
    timeout: float,
    abandoned: Event,
) -> Bools:
    """Play one episode per row, writing into ``out (row, time, ...)``.

    Rows that ended are stepped along with a mask of 0.

    Args:
        env: just reset, ``row`` environments.
        observations: what its reset returned, ``(row, feature)``.
        act: policy of all rows, ``(row, feature) -> distribution (row, action)``.
        noise: for the actions, ``(row, time, ...)``.
        out: zeros; a view is fine.
        to_env: from policy actions to environment actions.
        timeout: seconds for every answer of a worker process.
        abandoned: once set, the rest is not wanted any more.

    Returns:
        ``(row,)``: the episode's physics diverged. Its mask is for the caller to clear. Stops
        early at a non-finite policy output, recorded but not given to the environment.
    """
    rows, horizon = out.rewards.shape
    live, invalid = np.ones(rows, dtype=np.bool_), np.zeros(rows, dtype=np.bool_)
    for t in range(horizon):
        if abandoned.is_set():
            break
        out.observations[:, t] = _float32(observations)
        distribution = act(out.observations[:, t])
        action = sample(distribution, noise[:, t])
        out.actions[:, t] = action
        for block, field in zip(out.distribution, distribution, strict=True):
            block[:, t] = field
        # A finite sum proves finite terms; NaN controls would come back as finite observations.
        finite = action if isinstance(distribution, Gaussian) else distribution.logits
        if not torch.isfinite(finite.sum()) and not finite.isfinite().all():
            return invalid  # the caller's check of all that was recorded names the place
        result = vector.step(env, to_env(action.cpu().numpy()), timeout=timeout)
        out.mask[:, t] = torch.from_numpy(live)
        ended = result.terminated | result.truncated | result.invalid
        paid = live & ~result.invalid
        out.rewards[:, t] = _float32(np.where(paid, result.rewards, 0.0))
        last = live if t == horizon - 1 else live & ended
        if last.any():
            truncated = ~result.terminated if t == horizon - 1 else result.truncated
            out.terminated[:, t] = torch.from_numpy(last & result.terminated & paid)
            out.truncated[:, t] = torch.from_numpy(last & truncated & paid)
            final = last & paid
            out.final_observations[final] = _float32(result.observations[final])
            invalid |= live & result.invalid
            live = live & ~last
            if not live.any():
                break
        observations = result.observations
        if ended.any():
            observations = vector.restart(env, result, ended, timeout=timeout)
    return invalid


def run_lanes(run: Callable[[int, Event], None], lanes: int) -> None:
    """``run(lane, abandoned)`` of every lane, each on a thread.

    An interrupt or a lane's error sets the event and so ends the other lanes at their next step.
    """
    abandoned, here = Event(), callers_device()

    def guarded(lane: int) -> None:
        try:
            with here():
                run(lane, abandoned)
        except BaseException:
            abandoned.set()
            raise

    with ThreadPoolExecutor(lanes) as pool:
        try:
            list(pool.map(guarded, range(lanes)))
        except BaseException:  # an interrupt reaches this thread only
            abandoned.set()
            raise


def _float32(x: NDArray[Any]) -> Tensor:
    # What does not fit into float32 becomes infinite here, and is caught as such.
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
