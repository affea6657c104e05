"""`metarl train` on several ranks: the same result, and one that goes on on another number."""

import math
from pathlib import Path

import pytest
from commands import refuse
from ranks import start, train_on
from workloads import ending, glyphs_for_images

from metarl.runs import read_metrics
from metarl_experiments.__main__ import main

COMMON = ["--compile=off", "--threads=1", "--validation-tasks=6", "--meta-batch=5"]
SINUSOID = ["sinusoid", *COMMON, "--iterations=20", "--log-every=5", "--validate-every=10"]
IMAGES = ["omniglot", *COMMON, "--iterations=6", "--log-every=3", "--validate-every=6"]
NAVIGATION = [
    "navigation",
    *COMMON,
    "--iterations=3",
    "--validate-every=3",
    "--episodes=4",
    "--env.horizon=20",
]
SMALL = {
    "sinusoid": SINUSOID,
    "images": [*IMAGES, "--net=dense"],
    "promp": [*NAVIGATION, "--update=promp"],
    "adam": [*NAVIGATION, "--update=adam", "--sampling-correction=emaml"],
    "step sizes": [*NAVIGATION, "--update=adam", "--learned-lr=signal"],
}


def changed(argv: list[str], *more: str) -> list[str]:
    """The command line with options put in the place of their likes."""
    names = {option.partition("=")[0] for option in more}
    return [*(option for option in argv if option.partition("=")[0] not in names), *more]


def numbers(run: Path) -> list[dict[str, float]]:
    lines = read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in x.items() if not k.startswith("seconds")} for x in lines]


@pytest.mark.parametrize("workload", SMALL)
def test_the_same_metrics_on_two_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workload: str
) -> None:
    glyphs_for_images(monkeypatch)
    argv = [*SMALL[workload], "--dtype=float64"]
    runs = [tmp_path / str(size) for size in (1, 2)]
    for size, run in enumerate(runs, 1):
        assert train_on(size, run, argv) == [0] * size
    one, two = map(numbers, runs)
    assert len(one) == len(two) > 1
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert math.isclose(value, b[name], rel_tol=1e-9, abs_tol=1e-12), name


@pytest.mark.parametrize(
    "more",
    [
        [],
        pytest.param(["--inner-steps=0"], marks=pytest.mark.slow),
        pytest.param(["--sampling-correction=emaml"], marks=pytest.mark.slow),
    ],
)
def test_the_same_trust_region_step(tmp_path: Path, more: list[str]) -> None:
    """Conjugate gradients blow rounding up, on any mapping; what they start from is the same."""
    argv = changed(NAVIGATION, "--dtype=float64", "--iterations=1", *more)
    runs = [tmp_path / str(size) for size in (1, 2)]
    for size, run in enumerate(runs, 1):
        assert train_on(size, run, argv) == [0] * size
    one, two = (numbers(run)[0] for run in runs)
    before_update = {"return_after", "env_steps", "gradient_norm", "sigma", "inner_grad_norm"}
    assert before_update < one.keys()
    for name in before_update:
        assert math.isclose(one[name], two[name], rel_tol=1e-12), name


@pytest.mark.parametrize(
    "argv", [SINUSOID, [*NAVIGATION, "--learned-lr=signal"]], ids=["sinusoid", "navigation"]
)
def test_exact_is_the_same_to_the_bit(tmp_path: Path, argv: list[str]) -> None:
    for size in (1, 2, 4):
        assert train_on(size, tmp_path / str(size), [*argv, "--exact"]) == [0] * size
    ends = [ending(tmp_path / str(size)) for size in (1, 2, 4)]
    assert ends[1:] == ends[:1] * 2
    # Mutant: not exact; the comparison sees the last bits.
    assert train_on(2, tmp_path / "mutant", argv) == [0, 0]
    assert ending(tmp_path / "mutant") != ends[0]


def test_a_run_goes_on_on_another_number_of_ranks(tmp_path: Path) -> None:
    argv = [*SINUSOID, "--exact", "--lr-decay=none"]  # a decay depends on where it ends
    assert train_on(1, tmp_path / "whole", argv) == [0]
    parts = tmp_path / "parts"
    assert train_on(2, parts, changed(argv, "--iterations=5")) == [0, 0]
    for size, iterations in ((1, 12), (3, 17), (2, 20)):
        more = ["sinusoid", "--resume", f"--iterations={iterations}"]
        assert train_on(size, parts, more) == [0] * size
    assert ending(tmp_path / "whole")["hash"] == ending(parts)["hash"]


def test_from_a_checkpoint(tmp_path: Path) -> None:
    assert train_on(1, tmp_path / "first", SINUSOID) == [0]
    argv = [*SINUSOID, "--exact", f"--from={max((tmp_path / 'first/checkpoints').iterdir())}"]
    for size in (1, 2):
        assert train_on(size, tmp_path / str(size), argv) == [0] * size
    assert ending(tmp_path / "1") == ending(tmp_path / "2")


def refusal(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, *argvs: list[str], status: int = 2
) -> str:
    """The one line that ranks, each with a command line of its own, say together; what is left."""
    capfd.readouterr()
    before = sorted(tmp_path.rglob("*"))
    children = start(len(argvs), lambda rank, tell: main(["train", *argvs[rank]]))
    assert [child.wait() for child in children] == [status] * len(argvs)
    out, err = capfd.readouterr()
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before
    (line,) = err.splitlines()
    return line


def test_refusals(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = f"--out={tmp_path / 'run'}"
    few = changed(SINUSOID, "--meta-batch=2", out)
    assert "3 ranks cannot share 2 tasks" in refusal(capfd, tmp_path, few, few, few)
    assert "3 ranks cannot share 2" in refusal(
        capfd, tmp_path, *[changed(SINUSOID, "--validation-tasks=2", out)] * 3
    )
    wrong = [*SINUSOID, "--shots=none", out]
    assert "--shots" in refusal(capfd, tmp_path, wrong, wrong)
    other = refusal(capfd, tmp_path, [*SINUSOID, out], [*SINUSOID, "--lr=0.5", out])
    assert "rank 1 has another configuration than rank 0" in other
    assert '"lr": 0.5' in other
    assert train_on(1, tmp_path / "run", SINUSOID) == [0]
    assert "holds a run" in refusal(capfd, tmp_path, [*SINUSOID, out], [*SINUSOID, out])
    again = ["sinusoid", "--resume", "--lr=2", out]
    assert "--lr" in refusal(capfd, tmp_path, again, again)


def test_other_commands_are_for_one_process(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert "without torchrun" in refuse(capfd, 2, "evaluate", "run")
    monkeypatch.setenv("RANK", "1")
    assert main(["evaluate", "run"]) == 2


def test_exact_takes_one_thread(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = f"--out={tmp_path / 'run'}"
    for more in ("--threads=2", "--mapping=vmap"):
        assert "--exact" in refuse(capfd, 2, "train", "sinusoid", "--exact", more, out)
    assert not (tmp_path / "run").exists()
