import gc
import operator
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor, nn
from walkers import Walker, diverging

import metarl_envs
from metarl.errors import InputError, NonFiniteError, WorkerError
from metarl.nets import MLP
from metarl.params import Params, expand_params, from_module
from metarl.rl.actions import action_map
from metarl.rl.distributions import Gaussian, log_prob, sample
from metarl.rl.making import make_halves
from metarl.rl.mapped import check_params, map_policy
from metarl.rl.policies import CategoricalMLP, GaussianMLP
from metarl.rl.rollout import Rollout, episode_returns, mean_return
from metarl.rl.sampler import Sampler
from metarl.streams import seed_of, stream

TASKS, EPISODES, HORIZON, SEED = 3, 4, 7, 11
assert metarl_envs.WORLDS
# Forking a process with threads warns from Python 3.12 on; the workers use no torch.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def _walkers(n: int, *, discrete: bool = False) -> SyncVectorEnv:
    make = [lambda: Walker(discrete=discrete)] * n
    return SyncVectorEnv(make, autoreset_mode=AutoresetMode.DISABLED)


def _tasks() -> list[dict[str, Any]]:
    return Walker.sample_tasks(TASKS, np.random.default_rng(0))


def _policy(*, discrete: bool = False) -> nn.Module:
    kind = CategoricalMLP if discrete else GaussianMLP
    return kind(2, 3 if discrete else 2, generator=torch.Generator().manual_seed(0))


def _params(policy: nn.Module) -> Params:
    """Different parameters for every task."""
    g = torch.Generator().manual_seed(1)
    expanded = expand_params(from_module(policy)[0], TASKS)
    return {
        name: p.detach() + 0.2 * torch.randn(p.shape, generator=g) for name, p in expanded.items()
    }


def _collect(envs: Any, tasks: Sequence[dict[str, Any]], *, discrete: bool = False) -> Rollout:
    sampler = Sampler(envs, episodes=EPISODES, horizon=HORIZON)
    sampler.set_tasks(tasks)
    policy = _policy(discrete=discrete)
    return sampler.collect(policy, _params(policy), seed=SEED)[0]


def _tensors(rollout: Rollout) -> dict[str, Tensor]:
    fields: dict[str, Any] = rollout._asdict()
    for i, x in enumerate(fields.pop("distribution")):
        fields[f"distribution.{i}"] = x
    return fields


def _same(a: Rollout, b: Rollout) -> bool:
    return all(torch.equal(x, y) for x, y in zip(*map(_tensors_list, (a, b)), strict=True))


def _tensors_list(rollout: Rollout) -> list[Tensor]:
    return list(_tensors(rollout).values())


@pytest.fixture(scope="module")
def whole() -> Rollout:
    return _collect(_walkers(TASKS * EPISODES), _tasks())


def _one_episode(row: int, noise: Tensor, *, discrete: bool) -> dict[str, Tensor]:
    """One row by itself: a single environment, a single policy call a step."""
    policy = _policy(discrete=discrete)
    _, apply = from_module(policy)
    own = {name: p[row // EPISODES] for name, p in _params(policy).items()}
    env, task = Walker(discrete=discrete), _tasks()[row // EPISODES]
    env.task = task
    observation, _ = env.reset(seed=(seed_of(SEED, "reset") + row) % 2**32)
    kept: dict[str, list[Any]] = {name: [] for name in ("s", "a", "r", "log_prob", "end")}
    for t in range(HORIZON):
        s = torch.from_numpy(observation.astype(np.float32))
        distribution = apply(own, s)
        a = sample(distribution, noise[row, t])
        if discrete:
            taken: Any = np.int64(a.item() - 1)
        else:
            scaled = np.clip(0.2 + 0.4 * a.numpy(), [-0.2, -np.inf], [0.6, np.inf])
            taken = np.float32([scaled[0], a[1]])
        observation, reward, terminated, truncated, _ = env.step(taken)
        for name, x in zip(
            kept,
            (s, a, reward, log_prob(distribution, a), (terminated, truncated)),
            strict=True,
        ):
            kept[name].append(x)
        if terminated or truncated:
            break
    out = {name: torch.stack(kept[name]) for name in ("s", "a", "log_prob")}
    out["r"], out["end"] = torch.tensor(kept["r"]), torch.tensor(kept["end"])
    out["end"][-1, 1] |= len(kept["r"]) == HORIZON and not bool(out["end"][-1, 0])
    out["final"] = torch.from_numpy(observation.astype(np.float32))
    return out


@pytest.mark.parametrize("discrete", [False, True])
def test_every_row_is_one_episode_played_alone(discrete: bool) -> None:
    rollout = _collect(_walkers(TASKS * EPISODES, discrete=discrete), _tasks(), discrete=discrete)
    rng = stream(SEED, "action-noise")
    shape = (TASKS * EPISODES, HORIZON)
    if discrete:
        noise = torch.from_numpy(rng.random(shape, dtype=np.float32))
    else:
        noise = torch.from_numpy(rng.standard_normal((*shape, 2), dtype=np.float32))
    lengths = set()
    for row in range(TASKS * EPISODES):
        alone = _one_episode(row, noise, discrete=discrete)
        i, j = divmod(row, EPISODES)
        n = len(alone["r"])
        lengths.add(n)
        assert rollout.mask[i, j].tolist() == [1.0] * n + [0.0] * (HORIZON - n)
        for found, expected in (
            (rollout.observations, alone["s"]),
            (rollout.actions, alone["a"]),
            (rollout.rewards, alone["r"]),
            (log_prob(rollout.distribution, rollout.actions), alone["log_prob"]),
        ):
            assert torch.allclose(found[i, j, :n].double(), expected.double(), atol=1e-5)
        assert torch.equal(rollout.terminated[i, j, :n], alone["end"][:, 0])
        assert torch.equal(rollout.truncated[i, j, :n], alone["end"][:, 1])
        assert not rollout.terminated[i, j, n:].any()
        assert not rollout.truncated[i, j, n:].any()
        assert torch.allclose(rollout.final_observations[i, j], alone["final"], atol=1e-5)
    assert len(lengths) > 1, "episodes of different lengths were meant to be tested"
    for name, x in _tensors(rollout).items():
        assert bool(x.isfinite().all()), name


def test_the_seed_decides_everything(whole: Rollout) -> None:
    envs = _walkers(TASKS * EPISODES)
    sampler = Sampler(envs, episodes=EPISODES, horizon=HORIZON)
    sampler.set_tasks(_tasks())
    policy = _policy()
    other, _ = sampler.collect(policy, _params(policy), seed=SEED + 1)
    again, counts = sampler.collect(policy, _params(policy), seed=SEED)
    assert _same(again, whole)
    assert not torch.equal(other.actions, whole.actions)
    assert counts.env_steps == int(whole.mask.sum())
    assert counts.invalid_episodes == 0


def test_any_module_is_a_policy(whole: Rollout) -> None:
    """Without ``map_tasks`` of its own it is mapped by vmap."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _policy()

        def forward(self, observations: Tensor) -> Any:
            return self.inner(observations)

    sampler = Sampler([_walkers(8), _walkers(4)], episodes=EPISODES, horizon=HORIZON)
    sampler.set_tasks(_tasks())
    params = {f"inner.{name}": p for name, p in _params(_policy()).items()}
    found, _ = sampler.collect(Own(), params, seed=SEED)
    assert torch.equal(found.mask, whole.mask)
    assert torch.allclose(found.rewards * found.mask, whole.rewards * whole.mask, atol=1e-5)


class Shifted(GaussianMLP):
    """What it acts by is its own ``forward``, not the ``map_tasks`` it inherits."""

    def forward(self, observations: Tensor) -> Any:
        policy = super().forward(observations)
        return policy._replace(mean=policy.mean + 3)


class Dropping(GaussianMLP):
    def forward(self, observations: Tensor) -> Any:
        return super().forward(nn.functional.dropout(observations, 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frozen", ["", "log_std", "mean.layers.0"])
@pytest.mark.parametrize("kind", [GaussianMLP, Shifted])
def test_the_policy_sampled_is_the_module(
    kind: type[GaussianMLP], frozen: str, dtype: torch.dtype
) -> None:
    """Whatever it overrides, whatever is frozen, in the type of the parameters."""
    policy = kind(2, 2, generator=torch.Generator().manual_seed(0))
    policy.get_submodule("mean.layers.0").bias.data += 0.5
    for name, p in policy.named_parameters():
        p.requires_grad_(not (frozen and name.startswith(frozen)))
    params, apply = from_module(policy, dtype=dtype)
    sampler = Sampler(_walkers(12), episodes=EPISODES, horizon=HORIZON)
    sampler.set_tasks(_tasks())
    rollout, _ = sampler.collect(policy, expand_params(params, TASKS), seed=SEED)
    expected = apply(params, rollout.observations)
    assert rollout.observations.dtype == dtype
    for found, true in zip(rollout.distribution, expected, strict=True):
        assert torch.allclose(found * rollout.mask[..., None], true * rollout.mask[..., None])


def replaced(change: Callable[[GaussianMLP], object]) -> GaussianMLP:
    policy = _policy()
    assert isinstance(policy, GaussianMLP)
    change(policy)
    return policy


class Bounded(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(super().forward(x))


class Halved(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


class OneForAll(nn.Module):
    """Its standard deviation comes without the rows, as it broadcasts."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, observations: Tensor) -> Gaussian:
        return Gaussian(self.net(observations), self.log_std)


def fix_log_std(policy: GaussianMLP) -> None:
    del policy.log_std
    policy.register_buffer("log_std", torch.full((2,), -1.0))


def scaled(module: nn.Module, inputs: Any) -> Any:
    return (5 * inputs[0],)


CHANGED: dict[str, Callable[[], nn.Module]] = {
    "another net": lambda: replaced(lambda p: setattr(p, "mean", Bounded((2, 8, 2)))),
    "a hook": lambda: replaced(lambda p: p.register_forward_pre_hook(scaled)),
    "a hook inside": lambda: replaced(lambda p: p.mean.layers[0].register_forward_pre_hook(scaled)),
    "a forward of its own": lambda: replaced(
        lambda p: setattr(p.mean, "forward", Bounded((2, 8, 2)).forward)
    ),
    "another layer": lambda: replaced(lambda p: p.mean.layers.insert(0, Halved(2, 2))),
    "a layer in another": lambda: replaced(
        lambda p: operator.setitem(p.mean.layers, 0, nn.Sequential(nn.Linear(2, 100)))
    ),
    "a parametrisation": lambda: replaced(
        lambda p: nn.utils.parametrizations.weight_norm(p.mean.layers[0])
    ),
    "a bounded log-std": lambda: replaced(
        lambda p: nn.utils.parametrize.register_parametrization(p, "log_std", nn.Tanh())
    ),
    "a fixed log-std": lambda: replaced(fix_log_std),
    "one standard deviation": OneForAll,
}


@pytest.mark.parametrize("change", CHANGED)
def test_the_policy_sampled_is_the_module_as_it_was_changed(change: str) -> None:
    policy = CHANGED[change]()
    params, apply = from_module(policy)
    sampler = Sampler(_walkers(12), episodes=EPISODES, horizon=HORIZON)
    sampler.set_tasks(_tasks())
    own = {name: p.detach().clone() for name, p in expand_params(params, TASKS).items()}
    rollout, _ = sampler.collect(policy, own, seed=SEED)
    mask = rollout.mask[..., None]
    for found, true in zip(rollout.distribution, apply(params, rollout.observations), strict=True):
        assert torch.allclose(found * mask, true * mask, atol=1e-5)


class Bare(GaussianMLP):
    def forward(self, observations: Tensor) -> Any:
        return self.mean(observations)


class Torch(GaussianMLP):
    def forward(self, observations: Tensor) -> Any:
        return torch.distributions.Normal(self.mean(observations), 1.0)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Bare(2, 2), "returned a Tensor: a policy returns metarl.rl.Gaussian"),
        (Torch(2, 2), "returned a Normal: a policy returns metarl.rl.Gaussian"),
        (CategoricalMLP(2, 2), "the policy's actions are one of 2 actions; the environment takes"),
        (GaussianMLP(2, 3), "the policy's actions are vectors of 3"),
        (GaussianMLP(5, 2), "fails on observations of length 2, which the environment gives"),
    ],
)
def test_policies_that_do_not_fit_are_refused(policy: nn.Module, message: str) -> None:
    sampler = Sampler(_walkers(12), episodes=EPISODES, horizon=HORIZON)
    sampler.set_tasks(_tasks())
    with pytest.raises(InputError, match=message):
        sampler.collect(policy, _params(policy), seed=SEED)


def test_a_policy_may_draw_random_numbers() -> None:
    policy = Dropping(2, 2)
    sampler = Sampler(_walkers(12), episodes=EPISODES, horizon=HORIZON)
    sampler.set_tasks(_tasks())
    rollout, _ = sampler.collect(policy, _params(policy), seed=SEED)
    assert rollout.mask.any()


@pytest.mark.parametrize("sizes", [(4, 8), (6, 6), (5,), (12, 12), (1, 3)])
def test_the_split_over_environments_changes_nothing(whole: Rollout, sizes: tuple[int]) -> None:
    """Whole tasks or not, in parallel or one group after the other, with or without padding."""
    found = _collect([_walkers(n) for n in sizes], _tasks())
    for name, x in _tensors(found).items():
        valid = whole.mask > 0
        expected = _tensors(whole)[name]
        if name != "final_observations":
            x, expected = x[valid], expected[valid]
        assert torch.allclose(x.double(), expected.double(), atol=1e-5), name
    assert torch.equal(found.mask, whole.mask)


@pytest.mark.parametrize("first", [0, 1])
def test_part_of_the_tasks_has_the_noise_it_has_in_the_whole(whole: Rollout, first: int) -> None:
    part = slice(first, first + 2)
    sampler = Sampler(_walkers(2 * EPISODES), episodes=EPISODES, horizon=HORIZON)
    sampler.set_tasks(_tasks()[part], block=(first, TASKS))
    policy = _policy()
    own = {name: p[part] for name, p in _params(policy).items()}
    rollout, _ = sampler.collect(policy, own, seed=SEED)
    for x, y in zip(*map(_tensors_list, (rollout, whole)), strict=True):
        assert torch.allclose(x.double(), y[part].double(), atol=1e-5)


@pytest.mark.parametrize("sizes", [(12,), (4, 8), (5,)])
def test_shared_parameters_are_one_call_of_all_rows(sizes: tuple[int]) -> None:
    """Expanded parameters are not copied, and give what their copies give."""
    policy, seen = _policy(), []
    shared = expand_params(from_module(policy)[0], TASKS)
    map_tasks = policy.map_tasks

    def watched(params: Params, observations: Tensor) -> Any:
        seen.append((params["log_std"].data_ptr(), tuple(observations.shape)))
        return map_tasks(params, observations)

    rollouts = []
    for params in (shared, {name: p.clone() for name, p in shared.items()}):
        sampler = Sampler([_walkers(n) for n in sizes], episodes=EPISODES, horizon=HORIZON)
        sampler.set_tasks(_tasks())
        policy.map_tasks = watched if params is shared else map_tasks
        rollouts.append(sampler.collect(policy, params, seed=SEED)[0])
    assert {address for address, _ in seen} == {shared["log_std"].data_ptr()}
    assert {shape for _, shape in seen[1:]} == {(1, n, 2) for n in sizes}
    for x, y in zip(*map(_tensors_list, rollouts), strict=True):
        assert torch.allclose(x.double(), y.double(), atol=1e-5)


def test_tasks_can_change_between_collections() -> None:
    sampler = Sampler(_walkers(5), episodes=EPISODES, horizon=HORIZON)
    policy = _policy()
    for tasks in (_tasks(), _tasks()[::-1]):
        sampler.set_tasks(tasks)
        rollout, _ = sampler.collect(policy, _params(policy), seed=SEED)
        slope = torch.tensor([task["slope"] for task in tasks])[:, None, None]
        after = torch.cat((rollout.observations[..., 1:, 0], torch.zeros(TASKS, EPISODES, 1)), -1)
        going_on = rollout.mask * (1 - (rollout.terminated | rollout.truncated).float())
        assert torch.allclose(rollout.rewards * going_on, slope * after * going_on, atol=1e-5)


def test_environments_that_others_use_too_get_their_tasks_again(whole: Rollout) -> None:
    envs = _walkers(12)
    first, second = (Sampler(envs, episodes=EPISODES, horizon=HORIZON) for _ in range(2))
    policy = _policy()
    first.set_tasks(_tasks())
    second.set_tasks(_tasks()[::-1])
    for sampler in (first, second, first):
        rollout, _ = sampler.collect(policy, _params(policy), seed=SEED)
    assert _same(rollout, whole)


def test_invalid_episodes_are_dropped_whole_and_alone(whole: Rollout) -> None:
    tasks, task, episode = _tasks(), 1, 2
    envs = _walkers(TASKS * EPISODES)
    row = task * EPISODES + episode
    sampler = Sampler(envs, episodes=EPISODES, horizon=HORIZON)
    sampler.set_tasks(tasks)
    diverging(envs, [row])
    policy = _policy()
    found, counts = sampler.collect(policy, _params(policy), seed=SEED)
    assert counts.invalid_episodes == 1
    assert counts.env_steps == found.mask.sum() + 1  # the step that diverged was taken
    assert not found.mask[task, episode].any()
    assert not (found.terminated | found.truncated)[task, episode].any()
    others = torch.ones(TASKS, EPISODES, dtype=torch.bool)
    others[task, episode] = False
    for name, x in _tensors(found).items():
        expected = _tensors(whole)[name]
        # Behind its end a row is stepped along, so there it may differ.
        valid = others if name == "final_observations" else others[..., None] & (whole.mask > 0)
        assert torch.equal(x[valid], expected[valid]), name
    returns = episode_returns(found)
    assert returns[task, episode] == 0
    valid = torch.tensor([EPISODES, EPISODES - 1, EPISODES])
    assert torch.equal(mean_return(found), returns.sum(1) / valid)


def test_as_many_invalid_episodes_as_may_be() -> None:
    envs = _walkers(TASKS * EPISODES)
    diverging(envs, [0, 1, 11])
    policy = _policy()

    def invalid(max_invalid: float) -> int:
        sampler = Sampler(envs, episodes=EPISODES, horizon=HORIZON, max_invalid=max_invalid)
        sampler.set_tasks(_tasks())
        return sampler.collect(policy, _params(policy), seed=SEED)[1].invalid_episodes

    assert invalid(0.25) == 3
    with pytest.raises(NonFiniteError, match="3 of 12 episodes diverged"):
        invalid(0.24)


def test_too_many_invalid_episodes_stop_the_run() -> None:
    tasks = [{"slope": 1.0, "fault": (1, "invalid", 0.0)}, *_tasks()[1:]]
    with pytest.raises(NonFiniteError, match="4 of 12 episodes diverged") as caught:
        _collect(_walkers(TASKS * EPISODES), tasks)
    assert caught.value.place == "physics"


def test_a_task_without_valid_episodes_stops_the_run() -> None:
    sampler = Sampler(_walkers(12), episodes=EPISODES, horizon=HORIZON, max_invalid=0.5)
    sampler.set_tasks([*_tasks()[:2], {"slope": 1.0, "fault": (1, "invalid", 0.0)}])
    policy = _policy()
    with pytest.raises(NonFiniteError, match="every episode of task 2"):
        sampler.collect(policy, _params(policy), seed=SEED)


def test_recorded_policies_detect_stale_data(whole: Rollout) -> None:
    policy = _policy()
    apply = torch.func.vmap(from_module(policy)[1])
    params = _params(policy)

    def gap(params: Params) -> float:
        now = log_prob(apply(params, whole.observations), whole.actions)
        recorded = log_prob(whole.distribution, whole.actions)
        return float(((now - recorded) * whole.mask).abs().max())

    assert gap(params) < 1e-4
    assert gap({name: p.roll(1, 0) for name, p in params.items()}) > 1e-2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("place", ["observation", "reward"])
@pytest.mark.parametrize("task", [0, 2])
def test_non_finite_from_the_environment_is_named(place: str, value: float, task: int) -> None:
    tasks = _tasks()
    tasks[task] = {**tasks[task], "fault": (1, place, value)}
    with pytest.raises(NonFiniteError, match=rf"{place} of task {task}") as caught:
        _collect([_walkers(6), _walkers(6)], tasks)
    assert (caught.value.place, caught.value.task) == (place, task)
    assert set(caught.value.batch) == {"observation", "action", "reward"}


@pytest.mark.parametrize("discrete", [False, True])
def test_padding_cuts_no_episode_short(discrete: bool) -> None:
    """Where its policy's output is not finite its whole group ends, real episodes and all."""
    envs = _walkers(5, discrete=discrete)
    faulty = {"slope": 0.0, "fault": (1, "observation", float("nan"))}
    original, groups = envs.set_attr, []

    def set_attr(name: str, values: Sequence[Any]) -> None:
        groups.append(len(groups))
        # The last row of the third group is 14, the last real one 11.
        original(name, [*values[:4], faulty] if len(groups) == 3 else values)

    envs.set_attr = set_attr  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match=r"observation of task 2, .* beyond") as caught:
        _collect(envs, _tasks(), discrete=discrete)
    assert (caught.value.place, caught.value.task) == ("observation", 2)
    assert set(caught.value.batch) == {"observation", "action", "reward"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["log_std", "mean.layers.1.weight"])
def test_non_finite_parameters_are_named(name: str, value: float) -> None:
    policy = _policy()
    params = _params(policy)
    params[name][1].view(-1)[0] = value
    sampler = Sampler(_walkers(12), episodes=EPISODES, horizon=HORIZON)
    sampler.set_tasks(_tasks())
    with pytest.raises(NonFiniteError) as caught:
        sampler.collect(policy, params, seed=SEED)
    assert (caught.value.place, caught.value.task) == (f"parameter {name}", 1)


@pytest.mark.parametrize(("discrete", "name"), [(False, "log_std"), (True, "logits.layers.2.bias")])
def test_non_finite_actions_reach_no_environment(discrete: bool, name: str) -> None:
    policy = _policy(discrete=discrete)
    params = _params(policy)
    params[name][1] = 1e38
    if discrete:
        params["logits.layers.2.weight"][1] = 1e38
    sampler = Sampler(_walkers(12, discrete=discrete), episodes=EPISODES, horizon=HORIZON)
    sampler.set_tasks(_tasks())
    with pytest.raises(NonFiniteError) as caught:  # the walker asserts that its action fits
        sampler.collect(policy, params, seed=SEED)
    assert (caught.value.place, caught.value.task) == ("action", 1)


@forks
def test_bad_input_is_explained() -> None:
    with pytest.raises(InputError, match="autoreset_mode"):
        Sampler(SyncVectorEnv([Walker]), episodes=1, horizon=1)
    workers = AsyncVectorEnv([Walker], autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(InputError, match="wrap its members"):
        Sampler(gymnasium.wrappers.vector.RecordEpisodeStatistics(workers), episodes=1, horizon=1)
    workers.close()
    stacked = SyncVectorEnv(
        [lambda: gymnasium.wrappers.ReshapeObservation(Walker(), (2, 1))],
        autoreset_mode=AutoresetMode.DISABLED,
    )
    with pytest.raises(InputError, match="FlattenObservation"):
        Sampler(stacked, episodes=1, horizon=1)
    with pytest.raises(InputError, match="flat Box and Discrete"):
        action_map(gymnasium.spaces.MultiDiscrete([2, 2]))
    for episodes, horizon, name in ((0, 1, "episodes"), (-1, 1, "episodes"), (1, -3, "horizon")):
        with pytest.raises(InputError, match=rf"{name} is .*at least 1"):
            Sampler(_walkers(2), episodes=episodes, horizon=horizon, exact=True)
    sampler = Sampler(_walkers(2), episodes=1, horizon=1)
    sampler.set_tasks(_tasks()[:2])
    policy = _policy()
    with pytest.raises(
        InputError, match=r"has the shape \(3, .*\), but set_tasks was given 2 tasks"
    ):
        sampler.collect(policy, _params(policy), seed=0)
    with pytest.raises(InputError, match=r"bonus has the shape \(\).*as expand_params gives them"):
        check_params({"bonus": torch.ones(())}, 2)


def test_environments_of_other_spaces_are_refused() -> None:
    with pytest.raises(InputError, match=r"envs\[1\] has the spaces .*vector environments of one"):
        Sampler([_walkers(2), _walkers(2, discrete=True)], episodes=1, horizon=1)


class Flags(VectorEnv[Any, Any, Any]):
    """Walkers that end at different times, whose flags are of a type of choice."""

    def __init__(self, kind: Any) -> None:
        self.rows, self.kind = _walkers(4), kind
        self.num_envs, self.metadata = 4, self.rows.metadata
        self.single_observation_space = self.rows.single_observation_space
        self.single_action_space = self.rows.single_action_space

    def set_attr(self, name: str, values: Any) -> None:
        self.rows.set_attr(name, values)

    def get_attr(self, name: str) -> Any:
        return self.rows.get_attr(name)

    def reset(self, **options: Any) -> Any:
        return self.rows.reset(**options)

    def step(self, actions: Any) -> Any:
        observations, rewards, terminated, truncated, infos = self.rows.step(actions)
        flags = (terminated.astype(self.kind), truncated.astype(self.kind))
        return observations, rewards.tolist(), *flags, infos


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32])
def test_flags_may_be_numbers(kind: Any) -> None:
    rollouts = [_collect(Flags(one), _tasks()) for one in (bool, kind)]
    assert rollouts[0].truncated.any() or rollouts[0].terminated.any()
    assert _same(*rollouts)


def test_action_map_is_affine_and_clips() -> None:
    low, high = np.float32([-1, 0, -np.inf, -np.inf]), np.float32([1, 10, 2, np.inf])
    to_env = action_map(gymnasium.spaces.Box(low, high))
    found = to_env(np.float32([[0.5, 0.5, 0.5, 0.5], [-3.0, 3.0, 3.0, 3.0]]))
    assert np.allclose(found, [[0.5, 7.5, 0.5, 0.5], [-1.0, 10.0, 2.0, 3.0]])
    assert found.dtype == np.float32


def test_bounds_as_wide_as_their_type_scale_nothing() -> None:
    wide = float(np.finfo(np.float32).max)
    to_env = action_map(gymnasium.spaces.Box(-wide, wide, (2,), np.float32))
    assert to_env(np.array([[0.0, 0.5]], np.float32)).tolist() == [[0.0, 0.5]]


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_action_map_refuses_a_box_of_integers(dtype: Any) -> None:
    """Affine maps of whole numbers would cut actions to the middle and the ends."""
    with pytest.raises(InputError, match="not of floats"):
        action_map(gymnasium.spaces.Box(0, 5, (1,), dtype))


def _async_walkers(n: int) -> AsyncVectorEnv:
    return AsyncVectorEnv([Walker] * n, autoreset_mode=AutoresetMode.DISABLED)


@forks
def test_worker_processes_give_the_same(whole: Rollout) -> None:
    envs = _async_walkers(4)
    try:
        sampler = Sampler(envs, episodes=EPISODES, horizon=HORIZON)
        alone = Sampler(_walkers(4), episodes=EPISODES, horizon=HORIZON)
        drawn = [s.sample_tasks(3, np.random.default_rng(5)) for s in (sampler, alone)]
        assert drawn[0] == drawn[1]
        found, expected = _collect(envs, _tasks()), _collect(_walkers(4), _tasks())
        assert _same(found, expected)
        assert torch.allclose(found.rewards * found.mask, whole.rewards * whole.mask, atol=1e-5)
    finally:
        envs.close(terminate=True)


@forks
def test_a_hung_worker_is_an_error_in_time() -> None:
    envs = _async_walkers(2)
    sampler = Sampler(envs, episodes=2, horizon=HORIZON, timeout=1.0)
    sampler.set_tasks([{"slope": 0.0, "fault": (1, "hang", 0.0)}])
    policy = _policy()
    params = {name: p[:1] for name, p in _params(policy).items()}
    start = time.perf_counter()
    with pytest.raises(WorkerError, match=r"0 gave no answer within 1 s while stepping") as caught:
        sampler.collect(policy, params, seed=SEED)
    assert caught.value.exit_code == 6  # 1 would print a traceback
    assert time.perf_counter() - start < 10
    assert not any(process.is_alive() for process in envs.processes)


@forks
def test_a_dead_worker_is_an_error() -> None:
    envs = _async_walkers(2)
    sampler = Sampler(envs, episodes=2, horizon=HORIZON)
    sampler.set_tasks([{"slope": 0.0}])
    policy = _policy()
    params = {name: p[:1] for name, p in _params(policy).items()}
    envs.processes[1].kill()  # as the kernel does where memory runs out
    envs.processes[1].join()
    with pytest.raises(WorkerError, match=r"worker 1 died while [a-z ]+: look for a crash"):
        sampler.collect(policy, params, seed=SEED)
    assert not any(process.is_alive() for process in envs.processes)


def test_autocast_which_threads_do_not_see_is_refused() -> None:
    sampler = Sampler(_walkers(4), episodes=2, horizon=HORIZON)
    sampler.set_tasks([{"slope": 0.0}, {"slope": 1.0}])
    policy = _policy()
    params = {name: p[:2] for name, p in _params(policy).items()}
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match="do not see torch"):
        sampler.collect(policy, params, seed=SEED)


def test_policies_with_tied_layers_act() -> None:
    policy = GaussianMLP(1, 1, hidden=(4, 4, 4), generator=torch.Generator().manual_seed(0))
    policy.mean.layers[2].weight = policy.mean.layers[1].weight
    params, apply = from_module(policy)
    mapped = map_policy(policy, expand_params(params, 2))
    seen = torch.ones(2, 3, 1)
    found = mapped(expand_params(params, 2), seen)
    assert torch.allclose(found.mean[0], apply(params, seen[0]).mean)


def _native(name: str, n: int, **kwargs: Any) -> Any:
    return gymnasium.make_vec(f"metarl/{name}", num_envs=n, **kwargs)


def _play(envs: Any, *, observation_dim: int, action_dim: int, horizon: int) -> Rollout:
    policy = GaussianMLP(observation_dim, action_dim, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(envs, episodes=4, horizon=horizon)
    sampler.set_tasks(sampler.sample_tasks(TASKS + 1, np.random.default_rng(3)))
    params = expand_params(from_module(policy)[0], TASKS + 1)
    return sampler.collect(policy, params, seed=SEED)[0]


def test_physics_threads_and_halves_change_no_bit() -> None:
    kinds: list[Callable[[], Any]] = [
        lambda: _native("HalfCheetahVelocity-v0", 16, threads=1),
        lambda: _native("HalfCheetahVelocity-v0", 16, threads=3),
        lambda: make_halves("metarl/HalfCheetahVelocity-v0", tasks=4, episodes=4),
    ]
    torch_threads, threads = torch.get_num_threads(), threading.active_count()
    found = [_play(make(), observation_dim=20, action_dim=6, horizon=30) for make in kinds]
    assert _same(found[0], found[1])
    assert _same(found[0], found[2])
    assert torch.get_num_threads() == torch_threads
    gc.collect()
    assert threading.active_count() == threads


def test_what_has_no_threads_of_its_own_stays_whole() -> None:
    whole = make_halves("metarl/Navigation2D-v0", tasks=4, episodes=4)
    assert [env.num_envs for env in whole] == [16]
    halves = make_halves("metarl/HalfCheetahVelocity-v0", tasks=5, episodes=4, threads=2)
    assert [env.num_envs for env in halves] == [12, 8]
    (alone,) = make_halves("metarl/HalfCheetahVelocity-v0", tasks=5, episodes=4, threads=1)
    assert alone.num_envs == 20
    parts = [_native("Navigation2D-v0", 8) for _ in range(2)]
    found = [_play(envs, observation_dim=2, action_dim=2, horizon=20) for envs in (whole, parts)]
    assert _same(*found)


def test_native_and_single_environments_agree() -> None:
    """Navigation starts at the origin, so both ways see the same episodes."""
    single = SyncVectorEnv(
        [lambda: gymnasium.make("metarl/Navigation2D-v0")] * 16,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    policy = GaussianMLP(2, 2, init_std=0.05, generator=torch.Generator().manual_seed(0))
    params = expand_params(from_module(policy)[0], 4)
    # Small steps and goals close by: some episodes arrive and end early.
    tasks = [{"goal": np.array([x, 0.0])} for x in (0.0, 0.01, 0.02, 0.3)]
    found = []
    for envs in (single, _native("Navigation2D-v0", 16)):
        sampler = Sampler(envs, episodes=4, horizon=100)
        sampler.set_tasks(tasks)
        found.append(sampler.collect(policy, params, seed=SEED)[0])
    assert bool(found[0].terminated.any())
    assert torch.equal(found[0].mask, found[1].mask)
    valid = found[0].mask > 0
    assert torch.allclose(found[0].rewards[valid], found[1].rewards[valid], atol=1e-5)
    assert torch.allclose(found[0].observations[valid], found[1].observations[valid], atol=1e-5)
