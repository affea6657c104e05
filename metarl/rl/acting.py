"""A policy outside of the sampler: it predicts actions, and is a plain module to save or train."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Space
from numpy.typing import NDArray
from torch import Tensor, nn

from metarl.errors import InputError, NonFiniteError
from metarl.runs.export import export_params

from .actions import action_map, check_actions
from .distributions import Gaussian, sample
from .noise import draw_noise
from .spaces import observation_length, trying


class Policy:
    """A stochastic policy that acts in an environment.

    Args:
        module: observations ``(..., feature)`` in, `Gaussian` or `Categorical` out. Gaussian
            actions are the policy's own: [-1, 1] is then mapped to the action space's range.
        observation_space: flat ``Box``.
        action_space: flat ``Box`` or ``Discrete``.
        seed: of the actions that `predict` draws.
        returns: mean undiscounted return before each gradient step that made this policy.

    Raises:
        InputError: the spaces are others, or do not fit the module.
    """

    def __init__(
        self,
        module: nn.Module,
        observation_space: Space[Any],
        action_space: Space[Any],
        *,
        seed: int,
        returns: tuple[float, ...] = (),
    ) -> None:
        self.module = module
        self.observation_space = observation_space
        self.action_space = action_space
        self.returns = returns
        self._to_env = action_map(action_space)
        self._rng = np.random.default_rng(seed)
        check_spaces(module, observation_space, action_space)

    @torch.no_grad()
    def predict(
        self,
        observation: NDArray[Any],
        state: Any = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """Actions for the environment, with the signature of Stable-Baselines3.

        Args:
            observation: ``(feature,)``, or ``(row, feature)`` for several at once.
            state: handed back as it is: the policy has no memory.
            episode_start: not needed without memory.
            deterministic: the mean, or the most probable action, rather than a draw.

        Returns:
            ``(action,)`` or ``(row, action)``, for discrete actions ``()`` or ``(row,)``, inside
            the action space; and the state.

        Raises:
            InputError: the observation has another length.
            NonFiniteError: it is not finite, or what the policy makes of it is not.
        """
        features = self.observation_space.shape or ()
        # A copy: torch takes neither reversed rows nor memory that may not be written to.
        observation = np.array(observation, dtype=np.float64)
        if observation.shape[-1:] != features or observation.ndim > 2:
            raise InputError(
                f"an observation of shape {observation.shape}: the policy takes {features}, or "
                f"{('rows', *features)}"
            )
        _require_finite("observation", observation)
        like = _parameter(self.module)
        distribution = self.module(torch.as_tensor(np.atleast_2d(observation)).to(like))
        if isinstance(distribution, Gaussian):
            best = distribution.mean
        else:
            best = distribution.logits.argmax(-1)
        noise = draw_noise(self._rng, distribution, *distribution[0].shape[:-1])
        drawn = sample(distribution, torch.as_tensor(noise).to(like))
        chosen = (best if deterministic else drawn).cpu().numpy()
        # Of logits that are no numbers some action is drawn all the same.
        made = chosen if isinstance(distribution, Gaussian) else distribution.logits.cpu().numpy()
        _require_finite("action", made)
        actions = self._to_env(chosen)
        return (actions if observation.ndim == 2 else actions[0]), state

    def save(self, path: str | Path) -> None:
        """Write ``module.state_dict()`` as ``.npz`` or ``.safetensors``; see `export_params`."""
        export_params(path, self.module.state_dict())


def _require_finite(place: str, values: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise NonFiniteError(f"the {place} is not finite", place=place)


def _parameter(module: nn.Module) -> Tensor:
    """One that tells type and device; of a policy without any, torch's default."""
    return next(module.parameters(), torch.zeros(()))


def check_spaces(module: nn.Module, observation: Space[Any], action: Space[Any]) -> None:
    """Refuse spaces whose sizes are not the module's.

    Raises:
        InputError: they are not.
    """
    length = observation_length(observation)
    like = _parameter(module)
    with trying(length), torch.no_grad():
        distribution = module(like.new_zeros(1, length))
    check_actions(distribution, action)
