"""`metarl render`: a film of a policy before and after adaptation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metarl.errors import InputError

from ..configs.bounds import Range
from ..configs.rl import EvaluateOptions
from ..evaluation.evaluate import load
from ..evaluation.shipped import is_shipped
from ..options import parse, positionals
from ..outputs import check_writable, output
from ..plots.tasks import after
from ..rl.environments import NAVIGATION
from ..rl.episodes import learner_of, play, spread_tasks
from ..rl.video import check_file, compose, write_video
from ..words import count

# GIFs count time in hundredths of a second; 25 pictures a second is what they show evenly.
FPS = {".gif": 25, ".mp4": 50}
SLOWEST = 10
STEPS = (0, 1, 3)


@dataclass(frozen=True)
class RenderCommand:
    """Film a policy before and after gradient steps: a row for each task.

    Attributes:
        out: file that ends in .mp4 or .gif; video.gif in the run by default.
        tasks: held-out tasks, spread over the task distribution.
        steps: numbers of gradient steps, a column each; 0 is the policy before adaptation.
        task_seed: paper for the paper's goals, or a number for fresh tasks; as metarl evaluate has
            it by default.
        task_range: low and high of the task distribution, for fresh tasks; the run's by default.
        seed: of the episodes.
        last: take the last checkpoint, not the best by validation.
        device: auto, cpu, cuda, cuda:N or mps; by default the run's own, or cpu where that is not
            there.
    """

    out: str | None = None
    tasks: Annotated[int, Range(1, 8)] = 3
    steps: tuple[Annotated[int, Range(0, 100)], ...] = STEPS
    task_seed: int | Literal["paper"] | None = None
    task_range: tuple[float, float] | None = None
    seed: Annotated[int, Range(0, 2**31)] = 0
    last: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    device: str | None = None


def run(argv: Sequence[str]) -> int:
    """Play, draw, write, and say where."""
    prog = "metarl render RUN"
    names, rest = ([], argv) if argv and argv[0] in ("-h", "--help") else positionals(argv, "RUN")
    command = parse(RenderCommand, rest, prog=prog, default=RenderCommand())
    if len(names) != 1:
        raise InputError(f"RUN: one is filmed at a time ({' '.join(names)})")
    path = Path(names[0])
    folder = Path() if is_shipped(path) else path
    out = output(folder / "video.gif" if command.out is None else command.out)
    if not command.steps:
        raise InputError("--steps: is empty; 0 is the policy before adaptation")
    loaded = load(path, last=command.last, device=command.device)
    learner = learner_of(loaded)
    check_file(out)
    check_writable(out)
    # The oracle is told the task and takes no steps.
    steps = tuple(k for k in command.steps if k == 0 or not learner.config.observe_task)
    if not steps:
        asked = " ".join(map(str, command.steps))
        raise InputError(f"--steps {asked}: {path} is told its task, takes none; add --steps 0")
    drawn = EvaluateOptions(task_seed=command.task_seed, task_range=command.task_range)
    tasks = spread_tasks(learner, command.tasks, drawn)
    fps, stride = _rate(learner.sampler(1, 1).envs[0].metadata.get("render_fps"), out.suffix)
    grid = play(loaded, tasks, steps, drawn, seed=command.seed, stride=stride)
    frames = list(
        compose(grid, tasks, [after(k) for k in steps], flat=learner.config.env.id == NAVIGATION)
    )
    write_video(out, frames, fps)
    print(f"{count(len(tasks), 'task')}, {len(frames) / fps:.1f} s: {out}")
    return 0


def _rate(native: int | None, suffix: str) -> tuple[int, int]:
    """Pictures a second, and time steps from one to the next: real time where that can be seen."""
    if not native or native < SLOWEST:
        return SLOWEST, 1
    stride = max(1, round(native / FPS[suffix]))
    return max(1, round(native / stride)), stride
