"""The command itself: what is found before anything heavy, and bad input in one line."""

import io
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from commands import refuse

from metarl.runs import load_checkpoint, versions
from metarl_experiments import machine
from metarl_experiments.__main__ import COMMANDS, guarded, main
from metarl_experiments.catalog import EXPERIMENTS
from metarl_experiments.progress import tell

METARL = [sys.executable, "-m", "metarl_experiments"]


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*METARL, *argv], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("argv", "seconds"), [(["--help"], 0.5), (["list"], 1.0)])
def test_answers_fast(argv: list[str], seconds: float) -> None:
    # Of the processor, whatever else it does.
    times = [0.0]
    for _ in range(3):
        assert run(*argv).returncode == 0
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(spent.ru_utime + spent.ru_stime)
    assert min(after - before for before, after in itertools.pairwise(times)) < seconds


@pytest.mark.parametrize("argv", [["--help"], ["list"]])
def test_imports_nothing_heavy(argv: list[str]) -> None:
    code = (
        "import sys; from metarl_experiments.__main__ import main; "
        f"main({argv}); sys.exit(str({{'torch', 'tyro', 'matplotlib'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


def test_presets_are_plain() -> None:
    code = (
        "import sys; from metarl_experiments.catalog import EXPERIMENTS; "
        "[(e.configs().Config(), e.presets()) for e in EXPERIMENTS.values()]; "
        "sys.exit(str({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


def test_first_order_is_the_default_without_second_derivatives() -> None:
    """But for the cheetah's direction, as docs/paper.md says."""
    having = {n: e.presets() for n, e in EXPERIMENTS.items() if "first-order" in e.presets()}
    others = {
        name
        for name, presets in having.items()
        if presets["first-order"] != {**presets["default"], "first_order": True}
    }
    assert others == {"cheetah-direction"}


def test_list_names_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"metarl {versions()['metarl-policies']}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"metarl {command}" in out for command in COMMANDS)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_of_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "usage: metarl" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere windows need no display server")
@pytest.mark.parametrize(
    ("command", "given", "library", "chosen"),
    [
        ("render", {}, "libEGL.so.1", "egl"),
        ("render", {"DISPLAY": ":0"}, "libEGL.so.1", None),
        ("render", {"WAYLAND_DISPLAY": "wayland-0"}, "libEGL.so.1", None),
        ("render", {"MUJOCO_GL": "osmesa"}, "libEGL.so.1", "osmesa"),
        ("render", {}, None, None),
        ("evaluate", {}, "libEGL.so.1", None),
    ],
)
def test_films_are_drawn_without_a_display(
    command: str,
    given: dict[str, str],
    library: str | None,
    chosen: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ctypes.util.find_library", lambda _: library)
    assert main([command, "--help"]) == 0
    assert os.environ.get("MUJOCO_GL") == chosen


def test_help_of_an_experiment_documents_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "sinusoid", "--help"]) == 0
    out = capsys.readouterr().out
    for option in ("--inner-lr", "--meta-batch", "--resume", "--from", "--minutes", "--seed"):
        assert option in out
    assert "tasks in an iteration" in out


@pytest.mark.parametrize(
    ("argv", "naming"),
    [
        (["trian"], "did you mean 'train'"),
        (["list", "all"], "all"),
        (["train"], "EXPERIMENT"),
        (["train", "sinusiod"], "did you mean 'sinusoid'"),
        (["train", "sinusoid", "twice"], "EXPERIMENT"),
        (["train", "sinusoid", "--preset", "best"], "--preset"),
        (["train", "sinusoid", "--inner-rate", "1"], "--inner-rate"),
        (["train", "sinusoid", "--inner-stepz", "1"], "did you mean --inner-steps?"),
        (["train", "navigation", "--task-range", "0", "1"], "did you mean --env.task-range?"),
        (["train", "sinusoid", "--inner-lr", "fast"], "it is --inner-lr FLOAT"),
        (["train", "sinusoid", "--inner-lr", "nan"], "--inner-lr"),
        (["train", "sinusoid", "--inner-lr=inf"], "--inner-lr"),
        (["train", "sinusoid", "--inner-lr", "-1"], "--inner-lr"),
        (["train", "sinusoid", "--meta-batch", "0"], "--meta-batch"),
        (["train", "sinusoid", "--meta-batch", "1e3"], "--meta-batch"),
        (["train", "sinusoid", "--iterations", "10" * 30], "--iterations"),
        (["train", "sinusoid", "--hidden", "40", "0"], "--hidden"),
        (["train", "sinusoid", "--hidden", "40,40"], "it is --hidden [INT [INT ...]]"),
        (["train", "sinusoid", "--learned-lr", "all"], "--learned-lr"),
        (["train", "sinusoid", "--learned-lr", "tensor", "--inner-steps", "0"], "--learned-lr"),
        (["train", "sinusoid", "--seed"], "--seed"),
        (["train", "sinusoid", "--seed", ""], "--seed"),
        (["train", "sinusoid", "--seed", "1", "--seed=2"], "--seed"),
        (["train", "sinusoid", "--minutes", "0"], "--minutes"),
        (["train", "sinusoid", "--out=--nope"], "--out"),
        (["train", "sinusoid", "--out", "a\0b"], "NUL"),
        (["train", "sinusoid", "--device", "tpu"], "--device"),
        (["train", "sinusoid", "--mapping", "loop"], "mapping"),
        (["train", "sinusoid", "--mapping", "vmap+compile"], "--mapping"),
        (["train", "sinusoid", "--from", "nowhere"], "nowhere"),
        (["train", "sinusoid", "--from", ""], "--from: is empty"),
        (["train", "sinusoid", "--out="], "--out: is empty"),
        (["train", "sinusoid", "--resume"], "--resume"),
        (["train", "sinusoid", "--out", "nowhere", "--resume"], "nowhere"),
        (["train", "sinusoid", "--from", "x", "--resume", "--out", "nowhere"], "nowhere"),
        (["evaluate"], "RUN"),
        (["evaluate", "nowhere"], "nowhere"),
        (["evaluate", "one", "two"], "RUN"),
        (["report"], "RUN"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_creates_nothing(
    argv: list[str],
    naming: str,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refuse(capfd, 2, *argv)
    assert line.startswith("metarl")
    assert naming in line
    assert list(tmp_path.iterdir()) == []


def test_closed_output_is_no_error(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = "--iterations 2 --meta-batch 2 --validation-tasks 2 --compile off --threads 1"
    for command in ("list", f"train sinusoid --out {run} {options}"):
        line = f"exec {sys.executable} -m metarl_experiments {command} >&-"
        done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert load_checkpoint(max((run / "checkpoints").iterdir())).iteration == 2


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--iterations=2.5"], "it is --iterations INT"),
        (["--iteration", "2", "--inner-step", "1"], "did you mean --inner-steps, --iterations?"),
    ],
)
def test_options_are_named_whatever_the_frame(given: list[str], told: str, encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "metarl_experiments", "train", "sinusoid", *given],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert given[0].partition("=")[0] in done.stderr
    assert told in done.stderr


def test_a_line_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ranks share standard error, which PYTHONUNBUFFERED (images for containers set it) leaves
    # without a buffer: a line's end written by itself comes after another rank's line.
    pieces: list[str] = []

    class Unbuffered(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return len(text)

    def warn() -> int:
        warnings.warn("of little weight", stacklevel=1)
        return 0

    monkeypatch.setattr(sys, "stderr", Unbuffered())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert guarded("train", warn) == 0
    assert main(["trian"]) == 2
    tell("saved", sys.stderr)
    assert len(pieces) == 3
    assert all(piece.endswith("\n") for piece in pieces)


def test_a_pipe_that_breaks_elsewhere_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    def talk() -> int:
        raise BrokenPipeError(32, "a simulator of one's own has gone")

    assert guarded("train", talk) == 1
    assert "a simulator of one's own has gone" in capfd.readouterr().err


def test_a_terminal_that_has_gone_changes_no_status(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    def stop() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stderr", Gone())
    assert guarded("train", stop) == 130
    assert main(["trian"]) == 2


def test_a_view_that_cannot_be_written_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """TensorBoard writes in a thread of its own, which a full disk ends."""

    def run() -> int:
        def write() -> None:
            with open("/dev/full", "w") as file:
                file.write("x")

        thread = threading.Thread(target=write, name="writer")
        thread.start()
        thread.join()
        return 0

    hook = threading.excepthook
    assert guarded("train", run) == 0
    assert threading.excepthook is hook
    assert (
        capfd.readouterr().err == "warning: writer has ended: [Errno 28] No space left on device\n"
    )


def test_internal_error_shows_its_traceback(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import metarl_experiments.commands.list as module

    def broken(_: list[str]) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(module, "run", broken)
    assert main(["list"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_sizes_that_are_too_much_together(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    sizes = ["--meta-batch=100000", "--episodes=100000"]
    line = refuse(capfd, 2, "train", "navigation", *sizes, f"--out={run}")
    assert "--meta-batch 100000 x --episodes 100000 x --env.horizon" in line
    line = refuse(capfd, 2, "train", "sinusoid", "--meta-batch=10000", "--shots=10000")
    assert "--shots 10000" in line
    line = refuse(capfd, 2, "train", "omniglot", "--meta-batch=1000", "--ways=1000")
    assert "--ways 1000" in line
    assert not run.exists()


def test_idle_threads_do_not_spin_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, command, expected in (
        ({}, "list", "1000"),
        ({}, "bench", None),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "list", None),
        ({"GOMP_SPINCOUNT": "7"}, "list", "7"),
    ):
        for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        assert main([command, "--help"]) == 0
        assert os.environ.get("GOMP_SPINCOUNT") == expected
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)


@pytest.mark.parametrize(
    ("given", "ranks", "expected"),
    [("1", "1", 1), ("0", "1", 2), ("many", "1", 2), ("1", "2", 2), ("9", "1", 2)],
)
def test_threads_are_at_most_what_others_are_told(
    given: str, ranks: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert machine.resolve(machine.Machine("cpu"), threads=2).threads == expected
    assert machine.resolve(machine.Machine("cpu", threads=3), threads=2).threads == 3


def test_an_interrupt_that_comes_out_as_another_error(capfd: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("half a module") from None
        return 0

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert guarded("train", interrupted) == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "stopped by SIGTERM" in capfd.readouterr().err
