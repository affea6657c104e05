"""The command `metarl`: finds the subcommand before anything heavy is imported."""

import contextlib
import ctypes.util
import difflib
import importlib
import importlib.metadata
import io
import os
import re
import select
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from types import FrameType

COMMANDS = {
    "list": "experiments and their presets",
    "train": "meta-train an experiment into a run directory",
    "evaluate": "adaptation curves of a run on held-out tasks",
    "report": "figures of runs, and one page that holds them",
    "render": "a film of a policy before and after adaptation",
    "export": "the parameters of a run as a file for other programs",
    "check": "what keeps an environment from being trained on",
    "bench": "speeds, each timed beside a limit or an alternative",
    "download": "fetch a data set from its official place",
}
_DOES = "\n".join(f"  {name:10s}{does}" for name, does in COMMANDS.items())
HELP = f"""usage: metarl COMMAND ...
       metarl --version

{_DOES}

  metarl list
  metarl train EXPERIMENT [--preset P] [--out DIR] [--seed S] [--iterations N] [--minutes M]
                          [--resume] [--from CHECKPOINT] [--device D] [--OPTION VALUE ...]
  metarl evaluate RUN [--tasks N] [--steps K] [--task-seed S] [--last] [--compare RUN ...]
                      [--out FILE.json] [--device D]
                      [--episodes N] [--task-range LOW HIGH] [--shots N] [--data DIR]
  metarl report RUN [RUN ...] [--alone] [--tasks N] [--steps K] [--task-seed S] [--out DIR]
                    [--device D] [--episodes N] [--task-range LOW HIGH] [--shots N] [--data DIR]
  metarl render RUN [--out FILE.mp4|.gif] [--tasks N] [--task-seed S] [--task-range LOW HIGH]
                    [--steps K ...] [--seed S] [--last] [--device D]
  metarl export RUN --out FILE.npz|.safetensors [--last]
  metarl check ENVIRONMENT
  metarl bench [NAME ...] [--repetitions N] [--out FILE.json]
  metarl download DATASET [--data DIR]

`metarl COMMAND --help` lists a command's options, `metarl train EXPERIMENT --help`, `metarl
evaluate RUN --help` and `metarl report RUN --help` those of an experiment. Exit status: 0 done, 1
internal error, 2 bad input, 3 no checkpoint verifies, 4 could not save, 5 non-finite values, 6 a
rank or worker failed, 129 / 130 / 143 hung up, interrupted, terminated.
"""


_heard: list[int] = []  # signals that came in this command


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (to the end of the process)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error writes any path
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments == ["--version"]:
        print(f"metarl {importlib.metadata.version('metarl-policies')}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "`metarl --help` lists them"
        return _say(f"metarl: there is no command {command!r}; {hint}", 2)
    if command not in ("list", "train") and os.environ.get("WORLD_SIZE", "1") != "1":
        line = f"metarl {command}: is for one process; start it without torchrun"
        return _say(line, 2) if os.environ.get("RANK") == "0" else 2
    _find_users_modules()
    if command != "bench" and "OMP_WAIT_POLICY" not in os.environ:  # benches time torch as it is
        # OpenMP's idle threads spin after each operation, which beside another busy process makes
        # an iteration take ten times as long. A short spin avoids that; on an idle machine it
        # costs uncompiled code a third and more, and compiled code nothing.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    return guarded(command, lambda: _run(command, rest))


def guarded(command: str, run: Callable[[], int]) -> int:
    """Run, turning errors and signals into one line and an exit status.

    Only an internal error, status 1, shows a traceback.
    """
    _heard.clear()
    before = signal.getsignal(signal.SIGINT)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as nohup leaves the hang-up
            signal.signal(signum, _interrupt)
    warnings.showwarning = _show_warning
    hook, threading.excepthook = threading.excepthook, _show_failed_thread
    status = 0
    try:
        status = run()
        status = _flushed(command, status)
    except KeyboardInterrupt as interrupt:
        return _stopped(command, getattr(interrupt, "signum", signal.SIGINT))
    except SystemExit as exit_:
        return int(exit_.code or 0)
    except Exception as error:
        if _heard:  # inside an import it comes out as another error
            return _stopped(command, _heard[0])
        if isinstance(error, BrokenPipeError) and _reader_gone():
            # Keep the interpreter from complaining about it.
            _drop_output()
            return status
        exit_code = int(getattr(error, "exit_code", 1))
        if exit_code == 1:
            _say(traceback.format_exc().rstrip())
            return 1
        return _say(f"metarl {command}: {' '.join(str(error).split())}", exit_code)
    finally:
        threading.excepthook = hook
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)  # None: not of Python
    return status


def _stopped(command: str, signum: int) -> int:
    return _say(f"metarl {command}: stopped by {signal.Signals(signum).name}", 128 + signum)


def _show_failed_thread(failed: threading.ExceptHookArgs) -> None:
    """In one line what only a view of the run needs: TensorBoard's writer meets a full disk too."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)
        return
    name = "a thread" if failed.thread is None else failed.thread.name
    _say(f"warning: {name} has ended: {failed.exc_value}")


def _flushed(command: str, status: int) -> int:
    """Bring the output out, of which the interpreter would complain at its end: the status then."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        return _say(f"metarl {command}: standard output cannot be written: {error.strerror}", 4)
    return status


def _reader_gone() -> bool:
    """Whether nobody reads standard output any more; other pipes break too, such as a worker's."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0))
    except (OSError, ValueError):  # no file
        return False


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _find_users_modules() -> None:
    """Let ``--env.id module:Id`` name a module of the working directory, as ``python -m`` does.

    It comes last, so that nothing in it hides what is installed.
    """
    with contextlib.suppress(FileNotFoundError):  # the directory has been removed
        here = os.getcwd()
        if here not in sys.path:
            sys.path.append(here)


def _draw_without_display() -> None:
    """Have MuJoCo draw by EGL where no screen is there and nobody chose.

    By default it and gymnasium's environments try a window. EGL that is not installed would keep
    even pictures that need no OpenGL from being drawn.
    """
    chosen = any(os.environ.get(name) for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform == "linux" and not chosen and ctypes.util.find_library("EGL"):
        os.environ["MUJOCO_GL"] = "egl"


def _run(command: str, argv: Sequence[str]) -> int:
    if command == "render":
        _draw_without_display()  # MuJoCo reads it once, when it is imported
    module = importlib.import_module(f".commands.{command}", __package__)
    if _heard:  # an import may swallow it
        raise Interrupted(_heard[0])
    status: int = module.run(argv)
    return status


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    # Gymnasium's come coloured, with a heading of their own.
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(message)).removeprefix("WARN: ")
    _say(f"warning: {text}")


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    _heard.append(signum)
    raise Interrupted(signum)


def _say(line: str, status: int = 0) -> int:
    with contextlib.suppress(OSError):  # its terminal has gone
        # In one piece: ranks share standard error, which may be unbuffered.
        sys.stderr.write(f"{line}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
