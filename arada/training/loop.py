"""The training loop: epochs of mapped steps, a hook after each, logs and checkpoints that survive a kill."""

import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from arada.errors import UserError
from arada.runtime import lease, preemption
from arada.runtime.progress import Progress
from arada.training.ahead import Prefetcher
from arada.training.checkpoints import Checkpoints
from arada.training.logs import Writer
from arada.training.replication import DeviceBatch, Replicas
from arada.training.state import Supervision, TrainState

logger = logging.getLogger(__name__)

if TYPE_CHECKING:  # training knows nothing of data sets
    from arada.data.splits import Examples
    from arada.training.lockstep import MemberOrders

# (epoch, state, supervision) -> (supervision of the next epoch, metrics of this one)
AfterEpoch = Callable[[int, TrainState, Supervision], tuple[Supervision, dict[str, float]]]


@dataclasses.dataclass(frozen=True)
class Program:
    """`step`, the train step of `arada.training.step` as `replicas` mapped it over their devices."""

    step: Callable
    replicas: Replicas


@dataclasses.dataclass(frozen=True)
class Start:
    """Where training begins, fresh or restored; a state at the end of an epoch goes with the supervision of the next.

    key: of all random numbers inside a step.
    window: the checkpoint's metrics of steps that are not logged yet; if a whole window ends an epoch, `after_epoch`
      has not run yet.
    """

    state: TrainState
    supervision: Supervision
    key: jax.Array
    window: Sequence[dict] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to train, and how often to log and to save.

    seed: of the data order, which is a function of (seed, epoch).
    log_every_steps: metrics are means over this many steps, and over the rest at the end of an epoch.
    checkpoint_every_steps: at the first logged step that is at least this many steps after the last checkpoint.
    """

    epochs: int
    batch_size: int
    seed: int
    log_every_steps: int
    checkpoint_every_steps: int


@dataclasses.dataclass(frozen=True)
class Records:
    """Where a run leaves its metrics and checkpoints; `run` (config, seed) is stored beside a checkpoint's arrays."""

    writer: Writer
    checkpoints: Checkpoints
    run: dict


def train(
    name: str,
    split: "Examples | MemberOrders",
    *,
    program: Program,
    start: Start,
    plan: Plan,
    after_epoch: AfterEpoch,
    records: Records,
) -> tuple[TrainState, Supervision]:
    """Trains from `start` to the end of the last epoch and saves the result.

    `name` is for progress lines, `split` holds the training images, `after_epoch` is called once after every epoch.

    Raises UserError if a loss or gradient is not finite; the last checkpoint is then the one before. Raises
    `preemption.Stopped` if asked to stop, with a checkpoint of that step.
    """
    return _Training(name, split, program, start, plan, after_epoch, records).run()


class Window:
    """The metrics of the last steps, still on the devices, whose means are not logged yet."""

    def __init__(self, metrics: Sequence[dict] = ()):
        self.metrics = list(metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def means(self, name: str, last: int) -> dict[str, float]:
        """The mean of each metric; waits for the devices. `last` is the number of the newest step, of the run `name`.

        Raises UserError if one is not finite.
        """
        metrics = jax.device_get(self.metrics)
        means = {f"train/{key}": float(np.mean([step[key] for step in metrics])) for key in metrics[0]}
        # The loss is from before the update; a gradient that is not finite breaks the weights after it.
        broken = [key for key, value in means.items() if not math.isfinite(value)]
        if broken:
            raise UserError(
                f"{name}: {' and '.join(broken)} became NaN or infinite between steps {last - len(metrics) + 1} and "
                f"{last}; lower optimizer.learning_rate (the last checkpoint is kept)"
            )
        return means


class _Training:
    """One call of `train`: `step` steps are done, `saved` are in the last checkpoint."""

    def __init__(self, name, split, program: Program, start: Start, plan: Plan, after_epoch, records: Records):
        self.name, self.split, self.program, self.plan = name, split, program, plan
        self.after_epoch, self.records = after_epoch, records
        self.steps_per_epoch = len(split) // plan.batch_size
        self.total = plan.epochs * self.steps_per_epoch
        self.step = self.saved = int(start.state.step)
        self.state, self.key = program.replicas.replicate((start.state, start.key))
        self.supervision, self.window = start.supervision, Window(start.window)
        self.progress = Progress(name, "step", self.total, plan.batch_size)
        # 0 until the first window is logged: its steps include the compilation.
        self.timed_from = 0.0

    def run(self) -> tuple[TrainState, Supervision]:
        if self.step:
            logger.info("%s: resuming at step %d of %d", self.name, self.step, self.total)
        logger.info("%s: compiling the train step", self.name)
        self.compile_start = time.monotonic()
        first = (self.step - bool(self.window)) // self.steps_per_epoch
        # The thread reads the next epoch while this one is validated.
        with Prefetcher(self._batches(first, self.step - first * self.steps_per_epoch)) as batches:
            for epoch in range(first, self.plan.epochs):
                self._take_steps(epoch, batches)
                self._end(epoch)
        return self.state, self.supervision

    def _batches(self, first: int, skip: int) -> Iterator[dict]:
        """The batches of all epochs from `first` on, without the `skip` first ones."""
        for epoch in range(first, self.plan.epochs):
            yield from self.split.epoch(
                self.plan.batch_size, seed=self.plan.seed, epoch=epoch, skip=skip, share=self.program.replicas.share
            )
            skip = 0

    def _placed(self, batches: Iterator[dict]) -> Iterator[DeviceBatch]:
        """Each batch with its subsets; the next one is on its way to the devices before a step is dispatched."""
        before = None
        for batch in batches:
            at = np.searchsorted(self.split.example_id, batch["example_id"])
            batch["subset"] = subset_of(self.supervision, at)
            now = self.program.replicas.place(batch)
            if before:
                yield before
            before = now
        if before:
            yield before

    def _take_steps(self, epoch: int, batches: Iterator[dict]) -> None:
        """The steps that an epoch still lacks; its last window is left to `_end`."""
        learnt, end = self.program.replicas.replicate(self.supervision.learnt), (epoch + 1) * self.steps_per_epoch
        complete = None
        for batch in self._placed(itertools.islice(batches, end - self.step)):
            self.state, metrics = self.program.step(self.state, batch, learnt, self.key)
            if complete:  # now that the devices have something to do
                self._log(complete)
                complete = None
            self.window.metrics.append(metrics)
            self.step += 1
            if self.compile_start:
                self._log_compilation(metrics)
            stopping = self.step < end and preemption.is_last(self.step)
            if self.step < end and (self.step % self.steps_per_epoch) % self.plan.log_every_steps == 0:
                complete, self.window = self.window, Window()
                if stopping or self._is_save_due():
                    self._log(complete)
                    complete = None
                if self._is_save_due():
                    self._save()
                    self.timed_from = time.monotonic()
            if stopping:
                raise self._stop()

    def _end(self, epoch: int) -> None:
        """Logs the rest of an epoch, and calls its hook."""
        self._log(self.window)
        try:
            self.supervision, metrics = self.after_epoch(epoch, self.state, self.supervision)
        except preemption.Stopped:
            raise self._stop() from None
        self.window = Window()
        self.records.writer.write_scalars(self.step, metrics)
        if self._is_save_due() or self.step == self.total:
            self._save()
        else:
            lease.check()
            self.records.writer.flush()
        self.timed_from = time.monotonic()
        if preemption.is_last(self.step):
            raise self._stop()

    def _log(self, window: Window) -> None:
        """Logs the means of a window that ends at this step; waits until the devices have made it."""
        means = window.means(self.name, self.step)
        epoch = -(-self.step // self.steps_per_epoch)
        self.progress.update(self.step, f"epoch {epoch}/{self.plan.epochs}, loss {means['train/loss']:.3f}")
        self.records.writer.write_scalars(self.step, means | {"epoch": self.step / self.steps_per_epoch})
        if self.timed_from:
            seconds = time.monotonic() - self.timed_from
            images = len(window) * self.plan.batch_size
            self.records.writer.write_scalars(self.step, {"images_per_second": images / seconds})
        # A step's speed does not include validation, logs, checkpoints or the first compilation.
        self.timed_from = time.monotonic()

    def _log_compilation(self, metrics: dict) -> None:
        jax.block_until_ready(metrics)
        logger.info("%s: compiled in %.1f s", self.name, time.monotonic() - self.compile_start)
        self.compile_start = 0.0
        self.progress.update(self.step)

    def _is_save_due(self) -> bool:
        return self.step - self.saved >= self.plan.checkpoint_every_steps

    def _save(self) -> None:
        lease.check()
        # The log first: rows after a checkpoint are dropped on resume, rows before it must be there.
        self.records.writer.flush()
        window = jax.device_get(self.window.metrics)
        self.records.checkpoints.save(self.step, self.state, self.supervision, self.records.run, window)
        self.saved = self.step

    def _stop(self) -> preemption.Stopped:
        """Saves this step; what to raise."""
        if self.window:
            self.window.means(self.name, self.step)  # weights that are not finite are not worth keeping
        if self.step > self.saved:
            self._save()
        return preemption.Stopped(
            f"{self.name}: stopped at step {self.step} of {self.total}; the same command continues from there"
        )


def subset_of(supervision: Supervision, at: np.ndarray) -> np.ndarray:
    """The subset of the training images at positions `at` int[B], or [B, M] of M members, whose ranks may differ."""
    subset = supervision.train_subset
    return subset[at] if subset.ndim == 1 else subset[np.arange(len(subset)), at]
