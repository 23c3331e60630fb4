"""Whether a config's data are available, and the speed of making training batches."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from arada import data
from arada.data.shifted import sources as shift_sources
from arada.errors import UserError
from arada.machines.findings import Finding

# Seconds for measuring batches.
SECONDS = 3.0


class Inputs:
    """The data of a config, read once."""

    def __init__(self, config: ml_collections.ConfigDict):
        self._config, self._error = config, ""
        self._splits: Mapping[str, Any] = {}
        try:
            self._dataset = data.build(config.data, config.run.data_dir)
            self._splits = data.load_splits(self._dataset, config.data)
        except UserError as error:
            self._error = str(error)

    @property
    def num_test(self) -> int:
        """The number of test images, 0 without data."""
        return len(self._splits.get("test", ()))

    def findings(self) -> Iterator[Finding]:
        """The available and the missing data."""
        if self._error:
            yield Finding("data", "wrong", self._error, "for details run python -m arada.prepare --config=...")
            return
        sizes = {name: len(split) for name, split in self._splits.items()}
        yield Finding("data", "ok", ", ".join(f"{name} {size:,}" for name, size in sizes.items()), values=sizes)
        evaluation, shape = self._config.evaluation, tuple(self._config.data.image_shape)
        try:
            shifted = shift_sources.build(self._config, self._dataset, self._splits["test"], "")
            absent = shifted.absent(shift_sources.types(evaluation), evaluation.severities)
            absent |= {name: self._dataset.why_absent(name, shape) for name in evaluation.out_of_distribution}
        except UserError as error:
            yield Finding("evaluation data", "wrong", str(error))
            return
        by_reason: dict[str, list[str]] = {}
        for name, reason in absent.items():
            if reason:
                by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            yield Finding("evaluation data", "note", f"left out: {', '.join(names)}", reason, {"absent": names})

    def batch_seconds(self) -> float | None:
        """Seconds to make a training batch, after the first batches, which open files; None without data."""
        if not self._splits:
            return None
        batches = _endless(self._splits["train"], self._config.training.batch_size)
        for _ in range(2):
            next(batches)
        count, start = 0, time.perf_counter()
        while count < 2 or time.perf_counter() - start < SECONDS:
            next(batches)
            count += 1
        return (time.perf_counter() - start) / count


def _endless(split: data.Examples, batch_size: int) -> Iterator[data.Batch]:
    epoch = 0
    while True:
        yield from split.epoch(batch_size, seed=0, epoch=epoch)
        epoch += 1
