"""The training loop: epochs of mapped steps, a hook after each, logs and checkpoints that survive a kill."""

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
from arada.training.ahead import Ahead
from arada.training.checkpoints import Checkpoints
from arada.training.logs import Writer
from arada.training.replication import Placed, Replicas
from arada.training.state import Supervision, TrainState

logger = logging.getLogger(__name__)

if TYPE_CHECKING:  # training knows nothing of data sets
    from arada.data.splits import Examples
    from arada.training.lockstep import MemberOrders

# (epoch, state, supervision) -> (supervision of the next epoch, metrics of this one)
AfterEpoch = Callable[[int, TrainState, Supervision], tuple[Supervision, dict[str, float]]]


def train(
    name: str,
    mapped_step: Callable,
    state: TrainState,
    supervision: Supervision,
    split: "Examples | MemberOrders",
    *,
    replicas: Replicas,
    epochs: int,
    batch_size: int,
    seed: int,
    key: jax.Array,
    after_epoch: AfterEpoch,
    writer: Writer,
    checkpoints: Checkpoints,
    log_every_steps: int,
    checkpoint_every_steps: int,
    run: dict,
    window: Sequence[dict] = (),
) -> tuple[TrainState, Supervision]:
    """Trains from `state.step` to the end of the last epoch and saves the result.

    Args:
      name: of the run, for its progress lines.
      mapped_step: the mapped train step of `arada.training.step`.
      state, supervision: fresh or restored; a state at the end of an epoch goes with the supervision of the next.
      split: the training images.
      seed: of the data order, which is a function of (seed, epoch).
      key: of all random numbers inside a step.
      after_epoch: called once after every epoch.
      log_every_steps: metrics are means over this many steps, and over the rest at the end of an epoch.
      checkpoint_every_steps: at the first logged step that is at least this many steps after the last checkpoint.
      run: stored beside the arrays (config, seed).
      window: the checkpoint's metrics of steps whose mean is not logged yet; after a whole window at the end of an
        epoch, `after_epoch` is still due.

    Raises UserError if a loss or gradient is not finite; the last checkpoint is then the one before. Raises
    `preemption.Stopped` if asked to stop, with a checkpoint of that step.
    """
    steps_per_epoch = len(split) // batch_size
    total = epochs * steps_per_epoch
    step = saved = int(state.step)
    state, key = replicas.replicate((state, key))
    progress = Progress(name, "step", total, batch_size)
    if step:
        logger.info("%s: resuming at step %d of %d", name, step, total)
    logger.info("%s: compiling the train step", name)
    compile_start = time.monotonic()
    window, window_start = list(window), 0.0

    def batches_of_epochs(first: int, skip: int) -> Iterator[dict]:
        for epoch in range(first, epochs):
            yield from split.epoch(batch_size, seed=seed, epoch=epoch, skip=skip, share=replicas.share)
            skip = 0

    def placed(batches: Iterator[dict]) -> Iterator[Placed]:
        """Each batch with its subsets; the next one is on its way to the devices before a step is dispatched."""
        before = None
        for batch in batches:
            batch["subset"] = subset_of(supervision, np.searchsorted(split.example_id, batch["example_id"]))
            now = replicas.place(batch)
            if before:
                yield before
            before = now
        if before:
            yield before

    def log(window: list[dict], last: int) -> None:
        """Logs the means of `window`, whose last step is `last`; waits until the devices have made it."""
        nonlocal window_start
        means = _means(name, window, last)
        progress.update(last, f"epoch {epoch + 1}/{epochs}, loss {means['train/loss']:.3f}")
        writer.write_scalars(last, means | {"epoch": last / steps_per_epoch})
        if window_start:
            seconds = time.monotonic() - window_start
            writer.write_scalars(last, {"images_per_second": len(window) * batch_size / seconds})
        # A step's speed does not include validation, logs, checkpoints or the first compilation.
        window_start = time.monotonic()

    def save() -> None:
        nonlocal saved
        lease.check()
        # The log first: rows after a checkpoint are dropped on resume, rows before it must be there.
        writer.flush()
        checkpoints.save(step, state, supervision, run, jax.device_get(window))
        saved = step

    def stop() -> preemption.Stopped:
        if window:
            _means(name, window, step)  # weights that are not finite are not worth keeping
        if step > saved:
            save()
        return preemption.Stopped(f"{name}: stopped at step {step} of {total}; the same command goes on from there")

    first = (step - bool(window)) // steps_per_epoch
    # The thread reads the next epoch while this one is validated.
    with Ahead(batches_of_epochs(first, step - first * steps_per_epoch)) as batches:
        for epoch in range(first, epochs):
            learnt, end = replicas.replicate(supervision.learnt), (epoch + 1) * steps_per_epoch
            due = None
            for batch in placed(itertools.islice(batches, end - step)):
                state, metrics = mapped_step(state, batch, learnt, key)
                if due:  # now that the devices have something to do
                    log(*due)
                    due = None
                window.append(metrics)
                step += 1
                if compile_start:
                    jax.block_until_ready(metrics)
                    logger.info("%s: compiled in %.1f s", name, time.monotonic() - compile_start)
                    compile_start = 0.0
                    progress.update(step)
                stopping = step < end and preemption.is_last(step)
                if step < end and (step % steps_per_epoch) % log_every_steps == 0:
                    due, window = (window, step), []
                    if stopping or step - saved >= checkpoint_every_steps:
                        log(*due)
                        due = None
                    if step - saved >= checkpoint_every_steps:
                        save()
                        window_start = time.monotonic()
                if stopping:
                    raise stop()
            log(window, step)
            try:
                supervision, of_epoch = after_epoch(epoch, state, supervision)
            except preemption.Stopped:
                raise stop() from None
            window = []
            writer.write_scalars(step, of_epoch)
            if step - saved >= checkpoint_every_steps or step == total:
                save()
            else:
                lease.check()
                writer.flush()
            window_start = time.monotonic()
            if preemption.is_last(step):
                raise stop()
    return state, supervision


def subset_of(supervision: Supervision, at: np.ndarray) -> np.ndarray:
    """The subset of the training images at positions `at` int[B], or [B, M] of M members, whose ranks may differ."""
    subset = supervision.train_subset
    return subset[at] if subset.ndim == 1 else subset[np.arange(len(subset)), at]


def _means(name: str, window: Sequence[dict], last: int) -> dict[str, float]:
    window = jax.device_get(window)
    means = {f"train/{key}": float(np.mean([metrics[key] for metrics in window])) for key in window[0]}
    # The loss is from before the update; a gradient that is not finite breaks the weights after it.
    broken = [key for key, value in means.items() if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"{name}: {' and '.join(broken)} not finite between steps {last - len(window) + 1} and {last}; lower "
            f"optimizer.learning_rate (the last checkpoint is kept)"
        )
    return means
