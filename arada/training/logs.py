"""Metrics of a run: `metrics.jsonl`, and beside it TensorBoard's event file where `tensorboard` is installed.

Both are rewritten from their rows when a run resumes, with the rows after the restored step left out: no step is
missing or twice, and nothing is ever appended to. Neither needs TensorFlow.
"""

import contextlib
import functools
import json
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Protocol

from etils import epath

from arada.runtime import files, hosts, lease
from arada.training import log_rows

logger = logging.getLogger(__name__)


class Writer(Protocol):
    """The interface of a writer of a run's metrics."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds scalars to the row of `step`."""

    def flush(self) -> None:
        """After it, everything written survives a kill."""

    def close(self) -> None:
        """Flushes and ends."""


class JsonLinesWriter:
    """One JSON object a step: {"step": 3, "loss": 0.5, ...}; the whole file is written at every flush."""

    def __init__(self, path: epath.Path):
        self._path = path
        self._rows: dict[int, dict[str, float]] = {}

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._rows.setdefault(step, {"step": step}).update({key: float(value) for key, value in scalars.items()})

    def flush(self) -> None:
        files.write_text(self._path, "".join(json.dumps(row) + "\n" for row in self._rows.values()))

    def close(self) -> None:
        self.flush()


class EventsWriter:
    """TensorBoard's event file, by its own protos and records: clu's writer would open TensorFlow and its GPUs.

    `opened` closes the file. Raises ImportError where `tensorboard` is not installed.
    """

    def __init__(self, directory: epath.Path, opened: contextlib.ExitStack):
        from tensorboard.compat.proto import event_pb2
        from tensorboard.plugins.scalar import summary_v2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._scalar_pb = event_pb2.Event, summary_v2.scalar_pb
        # TensorBoard orders the files of a folder by the number in their names.
        path = directory / f"events.out.tfevents.{int(time.time())}.arada"
        self._records = RecordWriter(opened.enter_context(path.open("wb")))
        self._write(file_version="brain.Event:2")

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for tag, value in scalars.items():
            self._write(step=step, summary=self._scalar_pb(tag, value))

    def _write(self, **fields) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self.flush()


class _Writers:
    """Several writers as one; without any it does nothing."""

    def __init__(self, *writers: Writer):
        self._writers = writers

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@contextlib.contextmanager
def open_writer(directory: epath.PathLike, resumed_step: int) -> Iterator[Writer]:
    """The writer of a run, with the rows up to `resumed_step`; closed with all rows, also on an error.

    The first process writes; the others' writers do nothing.
    """
    if not hosts.is_first():
        yield _Writers()
        return
    directory = epath.Path(directory)
    rows = [row for row in log_rows.logged(directory) if row["step"] <= resumed_step]
    for events in files.matching(directory, "events.out.tfevents.*"):
        events.unlink()
    with contextlib.ExitStack() as opened:
        writer = _Writers(JsonLinesWriter(directory / "metrics.jsonl"), *_events_writers(directory, opened))
        for row in rows:
            step = int(row.pop("step"))
            writer.write_scalars(step, row)
        writer.flush()
        try:
            yield writer
        finally:
            lease.check()  # else this would make the folder again, or write over another's rows
            writer.close()


def _events_writers(directory: epath.Path, opened: contextlib.ExitStack) -> list[Writer]:
    """One, or none where `tensorboard` is not installed."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return [EventsWriter(directory, opened)]
    except ImportError:
        _tell_no_events()
        return []


@functools.cache
def _tell_no_events() -> None:
    logger.info("metrics go to metrics.jsonl alone; for TensorBoard's event files: pip install tensorboard")
