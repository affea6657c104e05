"""Meta-policies through the command line: kill and resume, a user's environments, a short run."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from commands import refuse, succeed
from gymnasium.spaces import Box

from metarl.runs import read_metrics
from metarl_experiments.__main__ import main
from metarl_experiments.catalog import EXPERIMENTS
from metarl_experiments.configs.bounds import check_ranges
from metarl_experiments.configs.rl import Config, EnvConfig, EvaluateOptions
from metarl_experiments.machine import Machine
from metarl_experiments.options import preset_config
from metarl_experiments.rl.environments import make_sampler, paper_tasks
from metarl_experiments.rl.learner import PolicyLearner

TINY = [
    "--compile=off",
    "--threads=1",
    "--meta-batch=2",
    "--episodes=3",
    "--hidden=8",
    "--validate-every=3",
    "--validation-tasks=2",
    "--checkpoint-seconds=0",
]
# Forking a process with threads warns from Python 3.12 on; the workers use no torch.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def timeless(run: Path) -> list[dict[str, Any]]:
    lines = read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in x.items() if not k.startswith("seconds")} for x in lines]


@pytest.mark.parametrize("lost", ["optimizer", "penalty"])
def test_resuming_without_part_of_the_state_would_show(tmp_path: Path, lost: str) -> None:
    """Mutant: a checkpoint that forgets; the runs then part."""
    config = Config(
        EnvConfig("metarl/Navigation2D-v0", horizon=10),
        meta_batch=2,
        episodes=3,
        hidden=(8,),
        update="promp",
    )
    ends = []
    for forget in (False, True):
        learner = PolicyLearner(config, Machine("cpu", "float32", 1, "auto", "off"))
        state = learner.init(0)
        learner.step(state, 0)
        if forget and lost == "optimizer":
            assert state.optimizer is not None
            state.optimizer.state.clear()
        elif forget:
            state.extra["penalty"] = learner.init(0).extra["penalty"]
        for i in (1, 2):
            learner.step(state, i)
        ends.append([p.detach().numpy().tobytes() for p in state.params.values()])
    assert ends[0] != ends[1]


@forks
@pytest.mark.parametrize("env", ["MyTask-v0", "MyChoice-v0"])
def test_users_environments(tmp_path: Path, env: str, capfd: pytest.CaptureFixture[str]) -> None:
    argv = ["train", "maml", *TINY, "--iterations=3", f"--env.id=my_package:{env}"]
    argv += ["--env.horizon=9"]
    runs = {}
    for workers in (0, 2):
        runs[workers] = tmp_path / str(workers)
        succeed(*argv, f"--out={runs[workers]}", f"--env.workers={workers}")
    for run in runs.values():
        lines = timeless(run)
        assert [line["iteration"] for line in lines] == [1, 2, 3]
        assert all(np.isfinite(x) for line in lines for x in line.values())
        assert any(line["step_accepted"] for line in lines)
    # Rows batched otherwise round otherwise, so only nearly the same.
    sync, workers_ = (timeless(runs[k])[0]["return_after"] for k in (0, 2))
    assert sync == pytest.approx(workers_, rel=0.05)
    succeed("evaluate", str(runs[0]), f"--out={tmp_path / 'e.json'}", "--tasks=2", "--episodes=2")
    value = json.loads((tmp_path / "e.json").read_text())
    assert (value["tasks"], value["metric"], value["task_seed"]) == (2, "return", 0)
    assert len(value["variants"]["task"]["slope"]) == 2
    capfd.readouterr()


def test_user_mistakes_are_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for options, naming in (
        ([], "--env.id: is missing"),
        (["--env.id=metarl/HalfCheetahVelocity-v0", "--env.sparse"], "--env.sparse: metarl/Half"),
        (["--env.id=my_package:Nothing-v0"], "--env.id"),
        (["--env.id=no_such_package:MyTask-v0"], "--env.id"),
        (["--env.id=my_package:MyTask-v0", "--observe-task"], "--observe-task"),
        (["--env.id=my_package:MyTask-v0", "--env.sparse"], "--env.sparse"),
        (["--env.id=metarl/Navigation2D-v0", "--env.task-range", "1", "0"], "--env.task-range"),
    ):
        out = tmp_path / "run"
        line = refuse(capfd, 2, "train", "maml", *TINY, f"--out={out}", *options)
        assert naming in line
        assert not out.exists()


def test_a_package_that_does_not_import_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unfit.py").write_text("from gymnasium import something_else\n")
    (tmp_path / "mute.py").write_text("raise ImportError\n")
    monkeypatch.syspath_prepend(tmp_path)
    argv = ["train", "maml", *TINY, f"--out={tmp_path / 'run'}"]
    for package, said in (("unfit", "something_else"), ("mute", "ImportError")):
        line = refuse(capfd, 2, *argv, f"--env.id={package}:Task-v0")
        assert f"--env.id {package}:Task-v0: " in line
        assert said in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sizes", "naming"),
    [
        ({"validation_tasks": 100_000}, "--validation-tasks 100000 x --episodes 20"),
        ({"meta_batch": 100_000}, "--meta-batch 100000 x --episodes 20"),
        ({"evaluate": {"tasks": 100_000, "episodes": 100_000}}, "--tasks 100000 x --episodes"),
        ({"evaluate": {"episodes": 100_000}}, "--tasks 40 x --episodes 100000"),
    ],
)
def test_sizes_that_are_too_large_together(sizes: dict[str, Any], naming: str) -> None:
    kind = EvaluateOptions if "evaluate" in sizes else Config
    with pytest.raises(ValueError, match=f"^{naming}.*together more than"):
        check_ranges(kind(**sizes.get("evaluate", sizes)))


@pytest.mark.parametrize(
    ("values", "naming"),
    [
        (EvaluateOptions(tasks=0), "--tasks"),
        (EvaluateOptions(episodes=0), "--episodes"),
        (EvaluateOptions(steps=-1), "--steps"),
        (Config(patience=0), "--patience"),
        (Config(evaluation_lr=-1.0), "--evaluation-lr"),
        (Config(inner_gae_lambda=1.5), "--inner-gae-lambda"),
        (Config(best_reward=1e20), "--best-reward"),
        (Config(hidden=(8, 0)), "--hidden"),
    ],
)
def test_ranges_of_options_that_may_be_left_out(values: Any, naming: str) -> None:
    with pytest.raises(ValueError, match=f"^{naming}: must be "):
        check_ranges(values)


def test_a_fault_of_ones_own_environment_points_to_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def step(self: Any, action: Any) -> Any:
        raise KeyError("angle")

    monkeypatch.setattr("walkers.Walker.step", step)
    argv = ["train", "maml", *TINY, "--env.id=my_package:MyTask-v0", f"--out={tmp_path / 'run'}"]
    assert main(argv) == 1
    err = capfd.readouterr().err
    assert "KeyError: 'angle'" in err
    assert "`metarl check my_package:MyTask-v0` finds what" in err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Nothing-v0", "or as package:id where that is"),
        ("metarl/Nothing-v0", "once its metarl_envs is imported"),
        ("./reach.py:Reach-v0", "a module's name comes before the colon"),
    ],
)
def test_ids_that_are_none(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    argv = ["train", "maml", *TINY, f"--env.id={name}", f"--out={tmp_path / 'run'}"]
    assert said in refuse(capfd, 2, *argv)


def test_sizes_of_every_preset_and_of_large_evaluations_pass() -> None:
    for experiment in EXPERIMENTS.values():
        for preset in experiment.presets():
            check_ranges(preset_config(experiment, preset))
    for tasks, episodes in ((None, None), (100_000, None), (1_000, 1_000), (None, 10_000)):
        check_ranges(EvaluateOptions(tasks=tasks, episodes=episodes))
    check_ranges(Config(validation_tasks=10_000))


@pytest.mark.parametrize(
    ("experiment", "pretrained", "random", "later"),
    [
        ("navigation", 0.5, 0.5, 0.5),
        ("cheetah-velocity", 0.02, 0.1, 0.5),
        ("cheetah-direction", 0.2, 0.5, 0.5),
        ("ant-velocity", 0.2, 1, 0.5),
        ("ant-direction", 0.2, 1, 0.01),
    ],
)
def test_presets_hold_the_authors_step_sizes(
    experiment: str, pretrained: float, random: float, later: float
) -> None:
    def of(preset: str) -> Config:
        found: Config = preset_config(EXPERIMENTS[experiment], preset)
        return found

    assert of("pretrained").evaluation_lr == pretrained
    assert of("random").evaluation_lr == random
    assert of("paper").inner_lr == (0.5 if experiment == "navigation" else 0.1)
    assert of("paper").later_lr_factors == of("pretrained").later_lr_factors == (later,)


def test_presets_train_as_long_as_the_authors() -> None:
    for experiment, preset, iterations in (
        ("cheetah-direction", "paper", 100),
        ("ant-velocity", "paper", 375),
        ("ant-velocity", "pretrained", 575),
        ("ant-direction", "paper", 575),
    ):
        assert preset_config(EXPERIMENTS[experiment], preset).iterations == iterations


def test_ids_with_the_package_to_import_mean_the_same() -> None:
    """Options and the paper's goals go with the environment, however it is named."""
    named = EnvConfig("metarl_envs:metarl/Navigation2D-v0", "gym", horizon=7)
    assert named == EnvConfig("metarl/Navigation2D-v0", "gym", horizon=7)
    made = make_sampler(named, tasks=2, episodes=2, observe_task=True, threads=1)
    assert [env.num_envs for env in made.envs] == [4]  # native rows, in one batch
    assert made.envs[0].single_observation_space.shape == (4,)
    assert made.envs[0].unwrapped.horizon == 7  # type: ignore[attr-defined]
    goals = paper_tasks(named)
    assert goals is not None
    assert len(goals) == 40
    assert EnvConfig("my_package:MyTask-v0").id == "my_package:MyTask-v0"


@pytest.mark.slow
def test_navigation_learns_to_adapt() -> None:
    """Paired gain of one step on held-out goals, loosely bounded."""
    config = Config(
        EnvConfig("metarl/Navigation2D-v0", horizon=100),
        meta_batch=10,
        episodes=10,
        inner_lr=0.5,
        hidden=(32, 32),
    )
    learner = PolicyLearner(config, Machine("cpu", "float32", 1, "auto", "off"))
    state = learner.init(0)
    options = EvaluateOptions(tasks=20, steps=1, episodes=20, task_seed=0)
    untrained = learner.evaluate(state.params, options).per_task
    for i in range(12):
        learner.step(state, i)
    curve = learner.evaluate(state.params, options).per_task
    gain = curve[1] - curve[0]
    low = gain.mean() - 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
    assert gain.mean() > 10
    assert low > 0
    assert curve[1].mean() > untrained[1].mean() + 10


@forks
def test_samplers_of_all_sizes_share_their_workers() -> None:
    config = Config(
        EnvConfig("my_package:MyTask-v0", horizon=3, workers=2),
        meta_batch=2,
        episodes=3,
        hidden=(8,),
        validation_tasks=3,
    )
    learner = PolicyLearner(config, Machine("cpu", "float32", 1, "auto", "off"))
    state = learner.init(0)
    learner.step(state, 0)
    learner.validate(state)
    learner.evaluate(state.params, EvaluateOptions(tasks=1, steps=1, episodes=2, task_seed=0))
    env = learner.workers
    assert env is not None
    assert env.num_envs == 2
    assert all(learner.sampler(tasks, 2).envs == [env] for tasks in (1, 2, 5))
    env.close()


class Brief(gymnasium.Env):
    """Registered with a limit of four steps."""

    observation_space, action_space = Box(-1, 1, (1,), np.float32), Box(-1, 1, (1,), np.float32)
    task: Any = None

    def sample_tasks(self, n: int, rng: np.random.Generator) -> list[dict[str, float]]:
        return [{"sign": float(rng.choice([-1, 1]))} for _ in range(n)]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), self.task["sign"] * float(action[0]), False, False, {}


gymnasium.register("Brief-v0", Brief, max_episode_steps=4)


@pytest.mark.filterwarnings("default::metarl.errors.RunWarning")
@pytest.mark.parametrize("horizon", [3, 4, 5])
def test_room_for_steps_that_no_episode_has_is_told(
    tmp_path: Path, horizon: int, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = ["--compile=off", "--threads=1", "--hidden", "4", "--episodes=2", "--meta-batch=2"]
    argv += ["--env.id=Brief-v0", f"--env.horizon={horizon}", "--validation-tasks=2"]
    succeed("train", "maml", f"--out={tmp_path / 'run'}", "--iterations=1", *argv)
    line = (
        "warning: episodes of Brief-v0 end after 4 steps, and room is kept for --env.horizon 5: "
        "--env.horizon 4 takes less time and memory\n"
    )
    said = capfd.readouterr().err
    assert said.count(line) == said.count("room is kept") == (horizon == 5)
    record = read_metrics(tmp_path / "run" / "metrics.jsonl")[0]
    assert record["env_steps"] == 2 * 2 * 2 * min(horizon, 4)
