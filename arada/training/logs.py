"""Metrics of a run: `metrics.jsonl` beside TensorBoard's event files, through clu's writers.

Both are rewritten from their rows when a run resumes, with the rows after the restored step left out: no step is
missing or twice, and nothing is ever appended to.
"""

import contextlib
import json
import logging as python_logging
from collections.abc import Iterator

from clu import metric_writers
from etils import epath

from arada.runtime import files, hosts, lease
from arada.training import log_rows


class JsonLinesWriter(metric_writers.MetricWriter):
    """One JSON object a step: {"step": 3, "loss": 0.5, ...}; written as a whole at every flush."""

    def __init__(self, path: epath.Path):
        self._path = path
        self._rows: dict[int, dict[str, float]] = {}

    def write_scalars(self, step, scalars):
        """Adds scalars to the row of `step`."""
        self._rows.setdefault(step, {"step": step}).update({key: float(value) for key, value in scalars.items()})

    def flush(self):
        """Replaces the file by one with all rows."""
        files.write_text(self._path, "".join(json.dumps(row) + "\n" for row in self._rows.values()))

    def close(self):
        """Flushes."""
        self.flush()

    def _only_scalars(self, *args, **kwargs):
        raise NotImplementedError("metrics.jsonl holds scalars only")

    write_summaries = write_images = write_videos = write_audios = _only_scalars
    write_texts = write_histograms = write_pointcloud = write_hparams = _only_scalars


@contextlib.contextmanager
def open_writer(directory: epath.PathLike, resumed_step: int) -> Iterator[metric_writers.MetricWriter]:
    """The writer of a run, with what it had written up to `resumed_step`; closed with all rows, also on an error.

    The first process writes; the others' writers do nothing.
    """
    if not hosts.is_first():
        yield metric_writers.MultiWriter([])
        return
    directory = epath.Path(directory)
    rows = [row for row in log_rows.logged(directory) if row["step"] <= resumed_step]
    for events in files.matching(directory, "events.out.tfevents.*"):
        events.unlink()
    # TensorFlow announces its plugins at every start.
    python_logging.getLogger("tensorflow").setLevel(python_logging.ERROR)
    writer = metric_writers.MultiWriter(
        [JsonLinesWriter(directory / "metrics.jsonl"), metric_writers.SummaryWriter(str(directory))]
    )
    for row in rows:
        step = int(row.pop("step"))
        writer.write_scalars(step, row)
    writer.flush()
    try:
        yield writer
    finally:
        lease.check()  # else this would make the folder again, or write over another's rows
        writer.close()
