"""Stochastic policies as plain modules: observations in, a distribution out.

Called through ``torch.func.functional_call``, under ``torch.func.vmap`` when the parameters carry a
leading task dimension. A sampler calls them hundreds of times a second, where the overhead of
mapping outweighs the arithmetic; so they also know how to map themselves, ``map_tasks``. A policy
without that method is mapped by vmap.
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from metarl.checks import check_positive
from metarl.nets import MLP, Activation, scale_layer
from metarl.params import Params

from .distributions import Categorical, Gaussian


class GaussianMLP(nn.Module):
    """Normal policy whose mean is an MLP and whose log-std does not depend on the state.

    ``mean = MLP(observation)``, ``std = max(exp(log_std), min_std)``; xavier-uniform weights and
    zero biases (Finn et al. 2017, section 5.3). The log-std is a parameter like any other, so the
    inner loop adapts it too.

    Args:
        observation_dim: length of an observation.
        action_dim: length of an action.
        hidden: widths of the hidden layers.
        activation: between the layers.
        init_std: initial standard deviation, in the units of the unclipped action.
        min_std: floor of the standard deviation.
        head_scale: multiplies the last layer's initial weights; near 0, all states start with mean
            action 0, and no state is favoured before anything was learned.
        generator: draws the weights; None uses torch's global generator.

    Raises:
        InputError: no such activation, or a standard deviation that is not above 0.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        hidden: Sequence[int] = (100, 100),
        activation: Activation = "relu",
        init_std: float = 1.0,
        min_std: float = 1e-6,
        head_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_positive("init_std", init_std)
        check_positive("min_std", min_std)
        sizes = (observation_dim, *hidden, action_dim)
        self.mean = MLP(sizes, activation=activation, generator=generator)
        scale_layer(self.mean.layers[-1], head_scale)
        self.log_std = nn.Parameter(torch.full((action_dim,), math.log(init_std)))
        self.min_log_std = math.log(min_std)

    def forward(self, observations: Tensor) -> Gaussian:
        """Distribution of the actions, ``(..., observation) -> (..., action)``."""
        mean = self.mean(observations)
        return Gaussian(mean, self._floored(self.log_std).expand_as(mean))

    @property
    def as_built(self) -> bool:
        """Whether `map_tasks` stands for `forward`: net, layers and log-std are as made here."""
        return _is_plain(self.mean) and "log_std" in self._parameters

    def map_tasks(self, params: Params, observations: Tensor) -> Gaussian:
        """``(task, row, observation) -> (task, row, action)``, parameters ``(task, ...)``."""
        mean = _map_mlp(self.mean, "mean", params, observations)
        return Gaussian(mean, self._floored(params["log_std"]).unsqueeze(1).expand_as(mean))

    def _floored(self, log_std: Tensor) -> Tensor:
        return log_std.clamp(min=self.min_log_std)


class CategoricalMLP(nn.Module):
    """Policy over discrete actions whose logits are an MLP.

    Args:
        observation_dim: length of an observation.
        actions: number of actions.
        hidden: widths of the hidden layers.
        activation: between the layers.
        head_scale: multiplies the last layer's initial weights.
        generator: draws the weights; None uses torch's global generator.

    Raises:
        InputError: no such activation.
    """

    def __init__(
        self,
        observation_dim: int,
        actions: int,
        *,
        hidden: Sequence[int] = (100, 100),
        activation: Activation = "relu",
        head_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = (observation_dim, *hidden, actions)
        self.logits = MLP(sizes, activation=activation, generator=generator)
        scale_layer(self.logits.layers[-1], head_scale)

    def forward(self, observations: Tensor) -> Categorical:
        """Distribution of the actions, ``(..., observation) -> (..., actions)``."""
        return Categorical(self.logits(observations))

    @property
    def as_built(self) -> bool:
        """As of `GaussianMLP`."""
        return _is_plain(self.logits)

    def map_tasks(self, params: Params, observations: Tensor) -> Categorical:
        """``(task, row, observation) -> (task, row, actions)``, parameters ``(task, ...)``."""
        return Categorical(_map_mlp(self.logits, "logits", params, observations))


def in_head(hidden: int) -> Callable[[str], bool]:
    """Whether a parameter is of the layer behind ``hidden`` hidden ones, or the log-std (ANIL)."""
    return functools.partial(_in_layer, f"layers.{hidden}.")


def _in_layer(layer: str, name: str) -> bool:  # of the module, so that inner loops can be pickled
    return layer in name or name == "log_std"


def _is_plain(net: nn.Module) -> bool:
    """Whether it is an MLP of linear layers, and those of no subclass, as a parametrisation is."""
    return type(net) is MLP and all(
        type(layer) is nn.Linear and layer.bias is not None for layer in net.layers
    )


def _map_mlp(mlp: MLP, name: str, params: Params, x: Tensor) -> Tensor:
    """The MLP under batched parameters: one batched matrix product a layer."""
    last = len(mlp.layers) - 1
    for i in range(len(mlp.layers)):
        weight, bias = params[f"{name}.layers.{i}.weight"], params[f"{name}.layers.{i}.bias"]
        x = torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
        if i < last:
            x = mlp.activation(x)
    return x
