"""Meta-policies out of a run directory: adapted as in evaluations, acting, saved."""

import gc
import inspect
import pickle
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from commands import refuse, succeed, train_small
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from spies import recorded
from torch import Tensor
from walkers import Walker

import metarl
import metarl.rl
import metarl_envs  # noqa: F401  # registers
from metarl.errors import InputError, NonFiniteError
from metarl.rl import MetaPolicy, Policy, loading
from metarl.rl.distributions import Categorical, Gaussian
from metarl.rl.one_task import one_task_sampler
from metarl.runs import export_params, read_config
from metarl_experiments.configs.rl import Config
from metarl_experiments.evaluation.evaluate import load as load_learner
from metarl_experiments.evaluation.shipped import ROOT, shipped
from metarl_experiments.rl.environments import make_sampler
from metarl_experiments.rl.learner import PolicyLearner

TINY = ("--compile=off", "--threads=1", "--hidden", "6", "--episodes=3", "--meta-batch=2")
TINY += ("--validation-tasks=2", "--env.horizon=9", "--evaluation-episodes=5", "--seed=3")
TINY += ("--later-lr-factors", "0.4", "0.2")
NAVIGATION = "metarl/Navigation2D-v0"
RUNS = {
    "plain": ("navigation",),
    "meta-sgd": ("navigation", "--learned-lr=element", "--inner-steps=2", "--lr-per-step"),
    "regret": ("navigation", "--best-reward=0", "--inner-lr=0.05"),
    "head": ("navigation", "--adapted=head", "--inner-surrogate=dice", "--discount=0.8"),
    "linear": ("navigation", "--inner-surrogate=linear", "--inner-gae-lambda=0.3"),
    "pretrained": ("navigation", "--inner-steps=0", "--evaluation-lr=0.7", "--meta-batch=3"),
    "oracle": ("navigation", "--inner-steps=0", "--observe-task", "--env.task-range", "0.1", "0.2"),
    "continuous": ("maml", "--env.id=my_package:MyTask-v0", "--inner-lr=0.4"),
    "discrete": ("maml", "--env.id=my_package:MyChoice-v0", "--inner-lr=0.4"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("runs")
    for name, (experiment, *options) in RUNS.items():
        given = {option.partition("=")[0] for option in options}
        tiny = [option for option in TINY if option.partition("=")[0] not in given]
        succeed("train", experiment, f"--out={top / name}", "--iterations=2", *tiny, *options)
    return top


def learner_of(run: Path) -> tuple[PolicyLearner, metarl.Params]:
    loaded = load_learner(run)
    assert isinstance(loaded.learner, PolicyLearner)
    return loaded.learner, loaded.params


def navigation(rows: int | None = None, **options: Any) -> Any:
    options = {"horizon": 9, **options}
    if rows is None:
        return gymnasium.make(NAVIGATION, **options)
    return gymnasium.make_vec(NAVIGATION, num_envs=rows, **options)


def adapted_by_learner(run: Path, task: dict[str, Any], steps: int) -> metarl.Params:
    """What the evaluation does to the same task with the same noise."""
    learner, params = learner_of(run)
    config = learner.config
    sampler = make_sampler(
        config.env, tasks=1, episodes=5, observe_task=config.observe_task, threads=1
    )
    path = learner.adapt(params, sampler, [task], steps, 11).path
    return {name: p[0] for name, p in path[-1].items()}


def distance(ours: metarl.Params, theirs: metarl.Params) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[n] - p).detach().abs().max()) for n, p in theirs.items())


@pytest.mark.parametrize("name", ["plain", "meta-sgd", "regret", "head", "pretrained", "oracle"])
def test_adapts_as_the_evaluation_does(runs: Path, name: str) -> None:
    task = {"goal": np.array([0.15, 0.12])}
    metapolicy = metarl.rl.load(runs / name)
    env = navigation(5, observe_task=name == "oracle")
    for steps in (0, 1, 4):
        policy = metapolicy.adapt(env, steps=steps, seed=11, task=task)
        found = dict(policy.module.named_parameters())
        theirs = adapted_by_learner(runs / name, task, steps)
        assert distance(found, theirs) < 1e-6
        assert len(policy.returns) == steps
    mutants = [
        replace(metapolicy, later_lr_factors=(0.7,)),
        replace(metapolicy, inner_steps=9, later_lr_factors=(0.5,)),
        replace(metapolicy, weighting=replace(metapolicy.weighting, discount=0.5)),
        replace(metapolicy, weighting=replace(metapolicy.weighting, best_reward=1.0)),
        replace(metapolicy, episodes=4),
        replace(metapolicy, horizon=8),
    ]
    for mutant in mutants:
        policy = mutant.adapt(env, steps=4, seed=11, task=task)
        assert distance(dict(policy.module.named_parameters()), theirs) > 1e-5
    if name == "regret":
        plain = replace(metapolicy, weighting=replace(metapolicy.weighting, best_reward=None))
        policy = plain.adapt(env, steps=4, seed=11, task=task)
        assert distance(dict(policy.module.named_parameters()), theirs) > 1e-5
    if name == "head":
        every = replace(metapolicy, inner=replace(metapolicy.inner, adapted=None))
        policy = every.adapt(env, steps=4, seed=11, task=task)
        assert distance(dict(policy.module.named_parameters()), theirs) > 1e-5


@pytest.mark.parametrize(("name", "discrete"), [("continuous", False), ("discrete", True)])
def test_users_environments_adapt_as_in_evaluations(runs: Path, name: str, discrete: bool) -> None:
    task = {"slope": 0.8}
    env = Walker(discrete=discrete)
    policy = metarl.rl.load(runs / name).adapt(env, steps=2, seed=11, task=task)
    theirs = adapted_by_learner(runs / name, task, 2)
    assert distance(dict(policy.module.named_parameters()), theirs) < 1e-6
    assert env.task == task


def same(one: Policy, other: Policy) -> bool:
    pairs = zip(one.module.parameters(), other.module.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def test_every_kind_of_environment_keeps_its_task(runs: Path) -> None:
    metapolicy = metarl.rl.load(runs / "plain")
    goal = {"goal": np.array([-0.2, 0.1])}
    other = metapolicy.adapt(navigation(5), steps=2, seed=11, task={"goal": np.zeros(2) + 0.4})

    vector = navigation(5)
    vector.set_attr("task", [goal] * 5)
    by_vector = metapolicy.adapt(vector, steps=2, seed=11)
    assert all(np.array_equal(task["goal"], goal["goal"]) for task in vector.task)
    assert not same(by_vector, other)

    single = navigation()
    single.unwrapped.task = goal
    metadata = dict(type(single.unwrapped).metadata)
    by_single = metapolicy.adapt(single, steps=2, seed=11)
    assert np.array_equal(single.unwrapped.task["goal"], goal["goal"])
    assert metadata == type(single.unwrapped).metadata
    single.reset(seed=0)  # it is open still

    rows = SyncVectorEnv([navigation] * 2, autoreset_mode=AutoresetMode.DISABLED)
    rows.set_attr("task", [goal] * 2)
    assert same(metapolicy.adapt(rows, steps=2, seed=11), by_single)
    by_id = metapolicy.adapt(f"metarl_envs:{NAVIGATION}", steps=2, seed=11, task=goal)
    assert same(by_id, by_single)
    drawn = [metapolicy.adapt(NAVIGATION, seed=seed) for seed in (1, 1, 2)]
    assert same(drawn[0], drawn[1])
    assert not same(drawn[0], drawn[2])


# What decides how a trained policy adapts; all else decided how it was trained, or is evaluated.
ADAPTATION = "env episodes inner_steps inner_lr first_order adapted inner_surrogate discount "
ADAPTATION += (
    "gae_lambda inner_gae_lambda bootstrap_time_limit best_reward hidden activation min_std "
)
ADAPTATION += "observe_task "
ADAPTATION += "later_lr_factors evaluation_lr evaluation_episodes"
OTHERS = "iterations meta_batch learned_lr signal_after lr_per_step sampling_correction update "
OTHERS += "max_kl damping cg_steps fisher_fraction lr lr_decay epochs clip init_std head_scale "
OTHERS += "evaluation_steps log_every validate_every patience validation_tasks"


def test_seed_draws_the_task_of_an_id() -> None:
    drawn = []
    for seed in (1, 1, 2):
        options: dict[str, Any] = {"episodes": 1, "horizon": 1, "task": None, "options": {}}
        with one_task_sampler(NAVIGATION, seed=seed, **options) as (_, task):
            assert task is not None
            drawn.append(task["goal"].tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_an_environment_of_the_callers_stays_open(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a gymnasium that closes vector environments which nobody holds any more."""

    def collected(self: Any) -> None:
        if not self.closed:
            self.close()

    monkeypatch.setattr(gymnasium.vector.VectorEnv, "__del__", collected, raising=False)
    closed = recorded(monkeypatch, "metarl_envs.single.TaskEnv.close")
    env = navigation()
    metarl.rl.load(runs / "plain").adapt(env, episodes=2, steps=1)
    gc.collect()
    assert closed == []
    env.step(env.action_space.sample())


def test_few_rows_of_an_id_are_padding() -> None:
    for episodes, rows in ((1, 1), (32, 32), (33, 17), (40, 20), (100, 25)):
        options: dict[str, Any] = {"horizon": 1, "task": None, "options": {}, "seed": 0}
        with one_task_sampler(NAVIGATION, episodes=episodes, **options) as (sampler, _):
            assert [env.num_envs for env in sampler.envs] == [rows]


def test_load_reads_every_field_that_decides_how_a_policy_adapts(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new field has to be put where it belongs, here and in `load`."""

    class Recording(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            read.add(name)
            return super().__getitem__(name)

    def recorded(run: Path) -> dict[str, Any]:
        config = read_config(run)
        return config | {"config": Recording(config["config"] | {"evaluation_episodes": None})}

    read: set[str] = set()
    monkeypatch.setattr(loading, "read_config", recorded)
    metarl.rl.load(runs / "plain")
    assert read == set(ADAPTATION.split())
    assert {f.name for f in fields(Config)} == {*ADAPTATION.split(), *OTHERS.split()}


def test_every_shipped_policy_loads() -> None:
    for run in shipped(ROOT):
        if "env" in read_config(run)["config"]:
            assert metarl.rl.load(run).module is not None


class NoTask(gymnasium.Env[Any, Any]):
    """The world as it is: what is wanted shows in the reward alone."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Box(-0.1, 0.1, (2,), np.float32)

    def reset(self, **options: Any) -> Any:
        super().reset(**options)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action: Any) -> Any:
        observation = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return observation, float(action.sum()), False, False, {}


def test_environment_without_tasks_and_whose_time_the_run_limits(runs: Path) -> None:
    metapolicy = metarl.rl.load(runs / "plain")
    env = NoTask()
    policy = metapolicy.adapt(env, episodes=20, steps=3, seed=0)
    assert not hasattr(env, "task")
    rewards = []
    for one in (metapolicy.adapt(env, steps=0), policy):
        rows = np.zeros((500, 2), np.float32)
        rewards.append(one.predict(rows, deterministic=True)[0].sum(1).mean())
    assert rewards[1] > rewards[0]


def test_predict_is_that_of_stable_baselines(runs: Path) -> None:
    policy = metarl.rl.load(runs / "plain").adapt(navigation(5), task={"goal": np.zeros(2)})
    names = list(inspect.signature(policy.predict).parameters)
    assert names == ["observation", "state", "episode_start", "deterministic"]
    one, rows = np.array([0.1, 0.2], np.float32), np.full((7, 2), 0.1)
    action, state = policy.predict(one)
    assert policy.action_space.contains(action)
    assert state is None
    assert policy.predict(one, state=(1,))[1] == (1,)
    actions, _ = policy.predict(rows)
    assert actions.shape == (7, 2)
    assert np.ptp(actions) > 0
    best, _ = policy.predict(rows, deterministic=True)
    distribution = policy.module(torch.as_tensor(rows, dtype=torch.float32))
    assert isinstance(distribution, Gaussian)
    expected = np.clip(0.1 * distribution.mean.detach().numpy(), -0.1, 0.1)
    np.testing.assert_allclose(best, expected, atol=1e-7)
    fixed = rows[:3].copy()
    fixed.flags.writeable = False
    for odd in (rows[::-1], fixed, rows.astype(">f4"), rows.astype(np.longdouble), rows.tolist()):
        found, _ = policy.predict(odd, deterministic=True)
        np.testing.assert_allclose(found, expected[: len(odd)], atol=1e-7)
    for wrong in (np.zeros(3), np.zeros((2, 2, 2)), np.float32(1)):
        with pytest.raises(InputError, match="an observation of shape"):
            policy.predict(wrong)
    for value in (np.nan, np.inf):
        with pytest.raises(NonFiniteError, match="observation is not finite") as told:
            policy.predict(np.array([0.1, value]))
        assert told.value.place == "observation"
    with torch.no_grad():
        next(policy.module.parameters()).fill_(np.nan)
    with pytest.raises(NonFiniteError, match="action is not finite"):
        policy.predict(one)


@pytest.mark.parametrize("deterministic", [False, True])
def test_logits_that_are_no_numbers_choose_nothing(deterministic: bool) -> None:
    module = metarl.rl.policies.CategoricalMLP(2, 3, hidden=(4,))
    spaces = Box(-1, 1, (2,), np.float32), Discrete(3)
    policy = Policy(module, *spaces, seed=0, returns=())
    assert policy.predict(np.zeros(2), deterministic=deterministic)[0] in range(3)
    with torch.no_grad():
        next(module.parameters()).fill_(np.nan)
    with pytest.raises(NonFiniteError, match="action is not finite"):
        policy.predict(np.ones(2), deterministic=deterministic)


def test_a_policy_without_parameters_acts() -> None:
    class Still(torch.nn.Module):
        def forward(self, x: Tensor) -> Gaussian:
            return Gaussian(torch.zeros(len(x), 2), torch.full((len(x), 2), -5.0))

    spaces = Box(-1, 1, (2,), np.float32), Box(-1, 1, (2,), np.float32)
    action, _ = Policy(Still(), *spaces, seed=0, returns=()).predict(np.ones(2))
    assert np.abs(action).max() < 0.1


def test_loading_draws_nothing_from_the_global_generator(runs: Path) -> None:
    for name in ("plain", "discrete"):
        before = torch.random.get_rng_state()
        metarl.rl.load(runs / name)
        assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("trained", [0, 1, 3])
def test_as_many_steps_as_were_trained(runs: Path, trained: int) -> None:
    metapolicy = replace(metarl.rl.load(runs / "plain"), inner_steps=trained)
    assert len(metapolicy.adapt(NAVIGATION, seed=1).returns) == trained
    assert len(metapolicy.adapt(NAVIGATION, seed=1, steps=2).returns) == 2


def test_draws_follow_the_policy_and_the_seed(runs: Path) -> None:
    metapolicy = metarl.rl.load(runs / "discrete")
    env = Walker(discrete=True)
    policies = [metapolicy.adapt(env, steps=0, seed=seed) for seed in (0, 0, 1)]
    rows = np.full((4000, 2), 0.3)
    drawn = [policy.predict(rows)[0] for policy in policies]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    assert (drawn[0] != policies[0].predict(rows)[0]).any()
    logits = policies[0].module(torch.full((1, 2), 0.3)).logits[0]
    frequencies = np.bincount(drawn[0] + 1, minlength=3) / 4000  # actions are -1, 0, 1
    np.testing.assert_allclose(frequencies, logits.softmax(-1).detach(), atol=0.03)
    best, _ = policies[0].predict(rows[0], deterministic=True)
    assert env.action_space.contains(best)
    assert int(best) == int(logits.argmax()) - 1


def test_saved_parameters_load_anywhere(runs: Path, tmp_path: Path) -> None:
    metapolicy = metarl.rl.load(runs / "meta-sgd")
    policy = metapolicy.adapt(navigation(5), task={"goal": np.zeros(2)})
    policy.save(tmp_path / "policy.npz")
    metapolicy.save(tmp_path / "theta.npz")
    with np.load(tmp_path / "policy.npz", allow_pickle=False) as file:
        told = {name: torch.from_numpy(file[name]) for name in file.files}
    fresh = metapolicy.module
    assert not same(Policy(fresh, policy.observation_space, policy.action_space, seed=0), policy)
    fresh.load_state_dict(told)
    assert same(Policy(fresh, policy.observation_space, policy.action_space, seed=0), policy)
    with np.load(tmp_path / "theta.npz", allow_pickle=False) as file:
        assert set(file.files) == set(metapolicy.theta)
        assert "inner_lr.log_std" in file.files


def test_export_command(runs: Path, tmp_path: Path, capfd: Any) -> None:
    out = tmp_path / "theta.npz"
    succeed("export", str(runs / "plain"), f"--out={out}")
    theta = metarl.rl.load(runs / "plain").theta
    with np.load(out, allow_pickle=False) as file:
        assert all(np.array_equal(file[name], p) for name, p in theta.items())
    for more, naming in (
        ([], "--out"),
        ([f"--out={tmp_path / 'theta.pt'}"], ".safetensors"),
        ([f"--out={tmp_path / 'no' / 'theta.npz'}"], "directory"),
    ):
        assert naming in refuse(capfd, 2, "export", str(runs / "plain"), *more)


def test_safetensors(runs: Path, tmp_path: Path, capfd: Any) -> None:
    torch_of = pytest.importorskip("safetensors.torch")
    out = tmp_path / "theta.safetensors"
    succeed("export", str(runs / "plain"), f"--out={out}")
    found = torch_of.load_file(out)
    theta = metarl.rl.load(runs / "plain").theta
    assert found.keys() == theta.keys()
    assert all(torch.equal(found[name], p) for name, p in theta.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64])
def test_numbers_that_a_file_cannot_hold_are_named(tmp_path: Path, dtype: torch.dtype) -> None:
    params = {"a": torch.ones(2), "b": torch.ones(2, dtype=dtype)}
    said = rf"theta.npz: b is .*{str(dtype).removeprefix('torch.')}.* as float32"
    with pytest.raises(InputError, match=said):
        export_params(tmp_path / "theta.npz", params)
    assert not list(tmp_path.iterdir())


def test_half_precision_in_safetensors(tmp_path: Path) -> None:
    torch_of = pytest.importorskip("safetensors.torch")
    out = tmp_path / "theta.safetensors"
    export_params(out, {"a": torch.ones(2, dtype=torch.float16)})
    assert torch_of.load_file(out)["a"].dtype == torch.float16
    with pytest.raises(InputError, match=r"b is torch\.bfloat16"):
        export_params(out, {"b": torch.ones(2, dtype=torch.bfloat16)})


def test_without_safetensors(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    out = tmp_path / "theta.safetensors"
    line = refuse(capfd, 2, "export", str(runs / "plain"), f"--out={out}")
    assert "metarl-policies[safetensors]" in line
    assert not out.exists()


@pytest.mark.parametrize(
    "changed", [{"hidden": [7]}, {"hidden": None}, {"env": 3}, {"hidden": "x"}, {"activation": ""}]
)
def test_config_of_another_version(
    runs: Path, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(runs / "plain")
    values = {**config["config"], **changed}
    whole = {name: value for name, value in values.items() if value is not None}
    for own in (whole, None):
        told = {**config, "config": own} if own else {"experiment": "navigation"}
        monkeypatch.setattr(loading, "read_config", lambda run, told=told: told)
        with pytest.raises(InputError, match="holds no policy of this version"):
            metarl.rl.load(runs / "plain")


class Mapless(NoTask):
    def __init__(self, **_: Any) -> None:
        raise ValueError("no file maze.xml")


gymnasium.register("Mapless-v0", Mapless)


def test_what_does_not_fit_is_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no run: it has no config\.json$"):
        metarl.rl.load(tmp_path)
    with pytest.raises(InputError, match=r"holds no run.*; there are .*continuous.* and others$"):
        metarl.rl.load(runs)
    with pytest.raises(InputError, match=r"holds no run.*; \S*plain has one$"):
        metarl.rl.load(runs / "plain" / "checkpoints" / "00000002")
    with pytest.raises(InputError, match=r"is a run of sinusoid; metarl\.rl\.load takes policies"):
        metarl.rl.load(train_small(tmp_path / "sinusoid"))
    metapolicy = metarl.rl.load(runs / "plain")
    unset, mixed, resetting = navigation(2), navigation(2), SyncVectorEnv([NoTask] * 2)
    mixed.set_attr("task", mixed.unwrapped.sample_tasks(2, np.random.default_rng(0)))
    cases: list[tuple[Any, str]] = [
        (Walker(discrete=True), "actions are vectors of 2"),
        (gymnasium.make("CartPole-v1"), "fails on observations of length 4"),
        (gymnasium.make("FrozenLake-v1"), "not a flat Box"),
        (unset, "hold one task"),
        (mixed, "hold one task"),
        (resetting, "AutoresetMode.DISABLED"),
        ("nowhere:Task-v0", "package:id"),
        ("Nothing-v0", "package:id"),
        (object(), "env is a object"),
        ("Mapless-v0", r"Mapless-v0 cannot be made: no file maze\.xml"),
    ]
    for env, said in cases:
        with pytest.raises(InputError, match=said):
            metapolicy.adapt(env)


def test_without_the_environments_and_experiments(runs: Path) -> None:
    code = (
        "import sys, metarl.rl; "
        f"policy = metarl.rl.load({str(runs / 'plain')!r}); "
        "loaded = [m for m in sys.modules if m.startswith(('metarl_envs', 'metarl_experiments'))];"
        "sys.exit(str(loaded))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", ["head", "discrete"])
def test_policies_can_be_pickled(runs: Path, name: str) -> None:
    loaded = metarl.rl.load(runs / name)
    assert loaded in [loaded]  # equal to itself alone
    metapolicy = pickle.loads(pickle.dumps(loaded))
    env: Any = gymnasium.make("my_package:MyChoice-v0") if name == "discrete" else NAVIGATION
    policy = metapolicy.adapt(env, episodes=3, horizon=4)
    observation = policy.observation_space.sample()
    copied = pickle.loads(pickle.dumps(policy))
    again = pickle.loads(pickle.dumps(metapolicy)).adapt(env, episodes=3, horizon=4)
    assert again.returns == policy.returns
    for _ in range(3):
        assert np.array_equal(copied.predict(observation)[0], policy.predict(observation)[0])


def test_an_id_is_made_with_the_horizon_asked_for(runs: Path) -> None:
    metapolicy = metarl.rl.load(runs / "plain")
    assert metapolicy.horizon == metapolicy.env_options["horizon"] == 9
    options = {**metapolicy.env_options, "horizon": 30}
    longer = gymnasium.make_vec(
        NAVIGATION,
        3,
        "sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.DISABLED},
        **options,
    )
    task = {"goal": np.array([0.3, -0.2])}
    found = metapolicy.adapt(NAVIGATION, episodes=3, horizon=30, task=task)
    assert found.returns == metapolicy.adapt(longer, episodes=3, horizon=30, task=task).returns
    assert found.returns != metapolicy.adapt(NAVIGATION, episodes=3, horizon=9, task=task).returns


@pytest.mark.parametrize("env", [Walker(), NAVIGATION], ids=str)
@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"episodes": 0}, "episodes is 0"),
        ({"episodes": -1}, "episodes is -1"),
        ({"horizon": 0}, "horizon is 0"),
        ({"horizon": -3}, "horizon is -3"),
        ({"steps": -1}, "steps is -1"),
        ({"steps": 2}, "factors is empty"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(env: Any, numbers: Any, said: str) -> None:
    module = metarl.rl.policies.GaussianMLP(2, 2, hidden=(4,))
    theta, _ = metarl.from_module(module)
    metapolicy = MetaPolicy(
        theta, module, metarl.InnerLoop(0.5), later_lr_factors=(), episodes=2, horizon=3
    )
    with pytest.raises(InputError, match=said):
        metapolicy.adapt(env, **numbers)
    assert len(metapolicy.adapt(env).returns) == 1  # as trained, without any later step


def test_of_ones_own() -> None:
    """No run: module and settings by hand."""
    generator = torch.Generator().manual_seed(0)
    module = metarl.rl.policies.CategoricalMLP(2, 3, hidden=(4,), generator=generator)
    theta, _ = metarl.from_module(module)
    metapolicy = MetaPolicy(theta, module, metarl.InnerLoop(0.5), horizon=9)
    env = Walker(discrete=True)
    env.task = {"slope": 1.0}
    policy = metapolicy.adapt(env, steps=5, episodes=100)
    assert isinstance(env.action_space, Discrete)
    assert policy.returns[-1] > policy.returns[0]


def small_policy() -> MetaPolicy:
    module = metarl.rl.policies.GaussianMLP(2, 2, hidden=(4,))
    theta, _ = metarl.from_module(module)
    return MetaPolicy(theta, module, metarl.InnerLoop(0.5), episodes=2, horizon=3)


class Named(Walker):
    """Its task is a word."""

    task: Any = "uphill"

    def __init__(self) -> None:
        super().__init__()
        del self.task

    def step(self, action: Any) -> Any:
        held, self.task = self.task, {"slope": 1.0 if self.task == "uphill" else -1.0}
        result = super().step(action)
        self.task = held
        return result


def test_tasks_that_are_no_dicts() -> None:
    rows = SyncVectorEnv([Named] * 2, autoreset_mode=AutoresetMode.DISABLED)
    assert len(small_policy().adapt(rows).returns) == 1
    rows.set_attr("task", ["uphill", "downhill"])
    with pytest.raises(InputError, match="hold one task"):
        small_policy().adapt(rows)


def test_a_package_that_does_not_import_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unfit.py").write_text("from gymnasium import something_else\n")
    (tmp_path / "mute.py").write_text("raise ImportError\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="unfit:Task-v0: cannot import name 'something_else'"):
        small_policy().adapt("unfit:Task-v0")
    with pytest.raises(InputError, match="mute:Task-v0: ImportError"):
        small_policy().adapt("mute:Task-v0")


class Centred(torch.nn.Module):
    """A policy with all that is no part of theta: a buffer, a frozen and a tied parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.full((2,), 0.3))
        self.scale = torch.nn.Parameter(torch.full((2,), 2.0), requires_grad=False)
        self.into = torch.nn.Linear(2, 2, bias=False)
        self.again = torch.nn.Linear(2, 2, bias=False)
        self.again.weight = self.into.weight
        self.logits = torch.nn.Linear(2, 3)

    def forward(self, observations: Tensor) -> Categorical:
        hidden = self.into(self.scale * (observations - self.centre)).tanh()
        return Categorical(self.logits(self.again(hidden).tanh()))


def test_what_is_no_part_of_theta_stays_as_it_is() -> None:
    module = Centred()
    theta, apply = metarl.from_module(module)
    policy = MetaPolicy(theta, module, metarl.InnerLoop(0.5), horizon=9).adapt(
        Walker(discrete=True), steps=2, episodes=5, task={"slope": 1.0}
    )
    adapted = {name: p.detach() for name, p in policy.module.named_parameters()}
    assert torch.equal(adapted["scale"], module.scale)
    assert distance({name: adapted[name] for name in theta}, theta) > 1e-3
    rows = torch.tensor([[0.4, -0.2]])
    expected = apply({name: adapted[name] for name in theta}, rows).logits
    assert torch.allclose(policy.module(rows).logits, expected)


def test_a_meta_policy_acts_by_theta() -> None:
    """Trained outside of the module, which is left as it was."""
    module = metarl.rl.policies.GaussianMLP(2, 2, hidden=(4,))
    before = {name: p.clone() for name, p in module.state_dict().items()}
    theta, apply = metarl.from_module(module, dtype=torch.float64)
    trained = {name: p.detach() + 1 for name, p in theta.items()}
    rates = metarl.learned_rates(trained, 0.1, per="tensor")
    metapolicy = MetaPolicy({**trained, **rates}, module, metarl.InnerLoop(0.1))
    rows = torch.ones(1, 2, dtype=torch.float64)
    assert torch.allclose(metapolicy.module(rows).mean, apply(trained, rows).mean)
    assert all(torch.equal(p, before[name]) for name, p in module.state_dict().items())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"log_std": None}, "log_std is missing in theta"),
        ({"other": torch.ones(1)}, r"other is \(1,\) in theta and missing in the module"),
        ({"log_std": torch.ones(1)}, r"log_std is \(1,\) in theta and \(2,\) in the module"),
    ],
)
def test_theta_of_another_module(changed: dict[str, Any], said: str) -> None:
    module = metarl.rl.policies.GaussianMLP(2, 2, hidden=(4,))
    theta = {**metarl.from_module(module)[0], **changed}
    theta = {name: p for name, p in theta.items() if p is not None}
    with pytest.raises(InputError, match=said):
        MetaPolicy(theta, module, metarl.InnerLoop(0.1))


def test_a_meta_policy_keeps_what_it_was_given() -> None:
    policy = metarl.rl.policies.GaussianMLP(2, 1, hidden=(4,))
    theta, _ = metarl.from_module(policy)
    best = MetaPolicy(theta, policy, metarl.InnerLoop(0.1))
    with torch.no_grad():
        theta["log_std"].add_(1.0)
    assert torch.equal(best.theta["log_std"], best.module.state_dict()["log_std"])
    assert float(best.theta["log_std"]) == 0


def test_adapting_again_and_again_keeps_no_copies() -> None:
    def alive() -> int:
        gc.collect()
        return sum(type(x) is metarl.rl.policies.GaussianMLP for x in gc.get_objects())

    policy = metarl.rl.policies.GaussianMLP(2, 2, hidden=(4,))
    meta = MetaPolicy(metarl.from_module(policy)[0], policy, metarl.InnerLoop(0.1))
    counts = []
    for _ in range(4):
        meta.adapt(NAVIGATION, episodes=2, horizon=4, task={"goal": [0.1, 0.1]})
        counts.append(alive())
    assert counts[0] == counts[-1]
