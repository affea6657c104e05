"""Arguments of the policies' parts that mean nothing, each with an error that says what would."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import pytest
import torch
from meta_steps import trpo, updated, walk

from metarl import InnerLoop, InputError, mean_over_tasks, trust_region_step
from metarl.errors import RunWarning
from metarl.rl import (
    CategoricalMLP,
    GaussianMLP,
    Sampler,
    Weighting,
    collect_meta_batch,
    make_halves,
    policy_objectives,
    promp_update,
)
from metarl.rl.advantages import advantages
from metarl.rl.objectives import policy_gradient_loss
from metarl_experiments.configs.rl import Config
from metarl_experiments.contradictions import warn_of_unused
from metarl_experiments.rl.contradictions import warn_of_standing_still

NOTHING: Any = None
NAVIGATION = "metarl_envs:metarl/Navigation2D-v0"


def no_policy(*_: Any) -> Any:
    raise AssertionError


def objectives(**options: Any) -> Any:
    return policy_objectives(no_policy, InnerLoop(), **options)


def promp(epochs: int, held: str = "theta") -> Any:
    setting = walk()
    _, optimizer = updated(setting, "promp")
    if held == "module":  # whose parameters theta are copies of
        optimizer = torch.optim.Adam(setting.policy.parameters())
    elif held == "some":  # as if learned step sizes had come after it
        optimizer = torch.optim.Adam(list(setting.theta.values())[:-1])
    own = setting.options["objectives"]

    def update(theta: Any, data: Any, clock: Any) -> Any:
        return promp_update(own, theta, data, optimizer, penalty=0.1, epochs=epochs)

    return setting.step(update)


def uncredited() -> Any:
    """A sampling correction of data that were collected without one."""
    plain, corrected = walk(), walk(sampling_correction="emaml")
    data = collect_meta_batch(plain.theta, seed=0, **plain.options).data
    return mean_over_tasks(corrected.options["objectives"].surrogate, data).value(plain.theta)


def tenfold() -> Any:
    setting = walk()
    return setting.step(trpo(setting, fisher_fraction=10))


def trust_region(max_kl: float) -> Any:
    def fn(theta: Any, x: Any) -> Any:
        return (theta["w"] * x).sum(), (theta["w"] * x).square().sum()

    objective = mean_over_tasks(fn, torch.ones(2, 3))
    return trust_region_step(objective, {"w": torch.ones(3)}, max_kl=max_kl)


def step(**options: Any) -> Any:
    objective = mean_over_tasks(lambda p, b: ((p["w"] * b).sum(),) * 2, torch.ones(2, 3))
    return trust_region_step(objective, {"w": torch.ones(3)}, max_kl=0.01, **options)


def mixed(tasks: int, *, inner_steps: int) -> Any:
    given = [{"slope": 1.0}] * tasks
    setting = walk(given, inner_steps=inner_steps, mixed=2)
    return setting.step(trpo(setting))


WRONG: dict[str, Callable[[], Any]] = {
    "baseline is 'lineer': choose one of linear, zero": lambda: Weighting(baseline="lineer"),  # type: ignore[arg-type]
    "value is 'none': choose one of linear, zero": lambda: advantages(NOTHING, value="none"),  # type: ignore[arg-type]
    "inner_surrogate is 'log-lik': choose one of loglik, linear, lvc, dice": lambda: objectives(
        inner_surrogate="log-lik"
    ),
    "kind is 'Dice': choose one of loglik": lambda: policy_gradient_loss(no_policy, kind="Dice"),  # type: ignore[arg-type]
    "sampling_correction is 'e-maml': choose one of off, emaml": lambda: objectives(
        sampling_correction="e-maml"
    ),
    "InnerLoop.lr holds tensors that require gradients": lambda: policy_objectives(
        no_policy, InnerLoop({"w": torch.ones((), requires_grad=True)})
    ),
    "epochs is 0: it must be a whole number, at least 1": lambda: promp(0),
    "min_std is 0.0: it must be above 0": lambda: GaussianMLP(2, 2, min_std=0.0),
    "init_std is -1: it must be above 0": lambda: GaussianMLP(2, 2, init_std=-1),
    "activation is 'gelu': choose one of relu, tanh": lambda: GaussianMLP(2, 2, activation="gelu"),  # type: ignore[arg-type]
    "activation is 'elu'": lambda: CategoricalMLP(2, 2, activation="elu"),  # type: ignore[arg-type]
    "max_kl is 0: it must be above 0": lambda: trust_region(0),
    "max_kl is -0.01": lambda: trust_region(-0.01),
    "max_kl is nan": lambda: trust_region(float("nan")),
    "cg_steps is 0: it must be a whole": lambda: step(cg_steps=0),
    "backtracks is -3: it must be a whole": lambda: step(backtracks=-3),
    "damping is -1: it must be at least 0": lambda: step(damping=-1),
    "resolution is -1: it must be at least 0": lambda: step(resolution=-1),
    "shrink is 1.5: it must be above 0 and": lambda: step(shrink=1.5),
    "shrink is nan": lambda: step(shrink=float("nan")),
    "needs MetaBatch.score_weights": lambda: uncredited(),
    "tasks is 2.5: it must be a whole": lambda: make_halves(NAVIGATION, tasks=2.5, episodes=1),  # type: ignore[arg-type]
    "episodes is nan: it must be": lambda: make_halves(
        NAVIGATION,
        tasks=1,
        episodes=float("nan"),  # type: ignore[arg-type]
    ),
    "threads is True: it must be": lambda: make_halves(
        NAVIGATION, tasks=1, episodes=1, threads=True
    ),
    "tasks is 0: it must be a whole number, at least 1": lambda: make_halves(
        NAVIGATION, tasks=0, episodes=1
    ),
    "episodes is -1": lambda: make_halves(NAVIGATION, tasks=1, episodes=-1),
    "Nothing-v0: .*package:id": lambda: make_halves("Nothing-v0", tasks=1, episodes=1),
    "nowhere:Task-v0: No module": lambda: make_halves("nowhere:Task-v0", tasks=1, episodes=1),
    "clip is -1: it must be above 0": lambda: objectives(clip=-1),
    "discount is 99: it must be at least 0 and": lambda: Weighting(discount=99),
    "inner_gae_lambda is -0.5: it must be": lambda: Weighting(inner_gae_lambda=-0.5),
    "fraction is 10: it must be above 0 and": lambda: tenfold(),
    "the optimiser does not hold log_std": lambda: promp(1, "module"),
    "the optimiser does not hold mean": lambda: promp(1, "some"),
    "envs is a single environment: give vector": lambda: Sampler(
        gymnasium.make(NAVIGATION),  # type: ignore[arg-type]
        episodes=1,
        horizon=1,
    ),
    "envs is a single environment: give vector env": lambda: Sampler(
        [gymnasium.make(NAVIGATION)],  # type: ignore[list-item]
        episodes=1,
        horizon=1,
    ),
    "its metarl_envs is imported": lambda: make_halves("metarl/Nothing-v0", tasks=1, episodes=1),
    "envs is an id: give vector": lambda: Sampler("CartPole-v1", episodes=1, horizon=1),  # type: ignore[arg-type]
    "envs holds one vector environment twice": lambda: Sampler(
        [gymnasium.make_vec(NAVIGATION, 1)] * 2, episodes=1, horizon=1
    ),
    "Acrobot-v1: .*'threads' .*gymnasium.make_vec": lambda: make_halves(
        "Acrobot-v1", tasks=1, episodes=1
    ),
    "tasks is empty": lambda: Sampler(
        gymnasium.make_vec(NAVIGATION, 1), episodes=1, horizon=1
    ).set_tasks([]),
    "mixed is 2, with 1 inner steps": lambda: mixed(4, inner_steps=1),
    "mixed is 2, with 0 inner steps and 5 tasks": lambda: mixed(5, inner_steps=0),
    "envs is empty": lambda: Sampler([], episodes=1, horizon=1),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_means_nothing_is_refused(message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        WRONG[message]()
    assert "\n" not in str(caught.value)


def test_options_that_an_update_does_not_read_are_told() -> None:
    argv = ["--lr", "0.1", "--max-kl=0.02"]
    for update, names in (("trpo", ["--lr"]), ("adam", ["--max-kl"]), ("promp", [])):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            warn_of_unused(argv, Config(update=update))  # type: ignore[arg-type]
        told = [f"{name} has no effect under --update {update}" for name in names]
        assert [str(one.message) for one in heard] == told


def test_a_best_reward_below_all_is_told() -> None:
    config = Config(best_reward=-10.0)
    with pytest.warns(RunWarning, match="no task takes an inner step.*--best-reward -10"):
        warn_of_standing_still(config, {"inner_grad_norm": 0.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_standing_still(config, {"inner_grad_norm": 0.1})
        warn_of_standing_still(replace(config, best_reward=None), {"inner_grad_norm": 0.0})
