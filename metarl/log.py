"""What a run reports while it trains: metrics.jsonl is the record, TensorBoard a view of it.

TensorBoard is imported on first use; its files may lose points when damaged or killed, and nothing
reads them back.
"""

import contextlib
import json
import math
import numbers
import os
import struct
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metarl.errors import RunWarning


def _number(value: Any) -> float | int | bool | None:
    if value is None or type(value) is bool or type(value) is int:
        return value
    if type(value) is not float:
        if isinstance(value, numbers.Integral):
            return int(value)
        detach = getattr(value, "detach", None)  # a tensor's number without its graph
        value = float(value if detach is None else detach())
    return value if math.isfinite(value) else None


class Settings(NamedTuple):
    """What a run was made with, to compare runs by.

    Attributes:
        values: name -> number, bool or text.
        metrics: tags of the record to compare by.
    """

    values: Mapping[str, float | bool | str]
    metrics: tuple[str, ...]


class TensorBoard:
    """A TensorBoard event file: scalars, what a run was made with, pictures.

    Args:
        directory: where the event file goes.
        purge_step: points from this step on, written before a restart, are hidden.
    """

    def __init__(self, directory: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
        from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-untyped]

        self._event, self._summary = Event, Summary
        self._writer: Any = EventFileWriter(str(directory), max_queue_size=1000, flush_secs=10)
        if purge_step > 0:
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(step=purge_step, session_log=start))

    def write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Add one point to each tag: ``seconds.sample`` is ``seconds/sample`` here."""
        values = [
            self._summary.Value(tag=tag.replace(".", "/"), simple_value=value)
            for tag, value in metrics.items()
        ]
        self._add(iteration, self._summary(value=values))

    def write_settings(self, settings: Settings) -> None:
        """Fill the run's line in the tab of hyperparameters."""
        from torch.utils.tensorboard.summary import hparams

        metrics = {tag.replace(".", "/"): 0.0 for tag in settings.metrics}  # only their names count
        experiment, start, _ = hparams(dict(settings.values), metrics)  # type: ignore[no-untyped-call]
        self._add(0, experiment)
        self._add(0, start)

    def write_picture(self, iteration: int, tag: str, png: bytes) -> None:
        """Show a PNG."""
        width, height = struct.unpack(">II", png[16:24])
        image = self._summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=png
        )
        self._add(iteration, self._summary(value=[self._summary.Value(tag=tag, image=image)]))

    def _add(self, step: int, summary: Any) -> None:
        self._writer.add_event(self._event(step=step, wall_time=time.time(), summary=summary))

    def close(self) -> None:
        """Write out what is queued."""
        self._writer.close()


class Log:
    """Append lines to a run's metrics.jsonl and points to its TensorBoard view.

    A line that cannot be written (full disk) waits in memory and is tried again with the next one
    and by `flush`, which a checkpoint requires to succeed; a line half written is taken back.

    Args:
        path: the metrics.jsonl.
        after: the last iteration already in it, -1 for none.
        tensorboard: whether to write the view too, beside it.
    """

    def __init__(self, path: Path, *, after: int = -1, tensorboard: bool = True) -> None:
        self._path = path
        self._start = after + 1
        self._last = after
        self._pending: list[bytes] = []
        self._descriptor = -1
        self._size = 0  # up to the last whole line
        self._torn = False
        self._view: TensorBoard | None = None
        self._want_view = tensorboard
        self.settings: Settings | None = None  # for the view, written when it opens

    def write(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Log what belongs to a complete iteration, all of it in this one call.

        Args:
            iteration: how many are complete; more than in the call before.
            metrics: tag, such as ``"train/loss"``, to a number: Python's, numpy's, a tensor of one
                element, or None. One that is not finite becomes ``null``.

        Raises:
            ValueError: the iteration has been logged.
        """
        if iteration <= self._last:
            raise ValueError(f"iteration {iteration} after {self._last}: each is logged once")
        values = {tag: _number(value) for tag, value in metrics.items()}
        line = json.dumps({"iteration": iteration, **values}, allow_nan=False)
        self._last = iteration
        self._pending.append(line.encode() + b"\n")
        with contextlib.suppress(OSError):  # `flush` reports it when it comes to a checkpoint
            self.flush()
        self._show(iteration, {t: v for t, v in values.items() if v is not None})

    def _show(self, iteration: int, values: Mapping[str, float]) -> None:
        if not self._want_view:
            return
        try:
            if self._view is None:
                self._view = TensorBoard(self._path.parent, self._start)
                if self.settings is not None:
                    self._view.write_settings(self.settings)
            self._view.write(iteration, values)
        except Exception as error:  # a view must never end a run
            self._want_view = False
            warnings.warn(f"no more TensorBoard: {error}", RunWarning, stacklevel=3)

    def flush(self) -> None:
        """Write the lines that wait.

        Raises:
            OSError: they wait still; the file ends with a whole line, or will before the next.
        """
        if not self._pending:
            return
        if self._descriptor < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            self._descriptor = os.open(self._path, flags, 0o666)
            self._size = os.fstat(self._descriptor).st_size
        if self._torn:
            os.ftruncate(self._descriptor, self._size)
            self._torn = False
        data = b"".join(self._pending)
        self._torn = True
        written = 0
        while written < len(data):  # a short write is continued, and ends in an error if it must
            written += os.write(self._descriptor, data[written:])
        self._torn = False
        self._size += len(data)
        self._pending.clear()

    @property
    def waiting(self) -> int:
        """Bytes of the lines that wait."""
        return sum(map(len, self._pending))

    def fileno(self) -> int:
        """Descriptor of the metrics.jsonl, for syncing; -1 before the first line."""
        return self._descriptor

    def close(self) -> None:
        """Close the files; lines that cannot be written are lost."""
        with contextlib.suppress(OSError):
            self.flush()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._view is not None:
            with contextlib.suppress(Exception):
                self._view.close()
            self._view = None
