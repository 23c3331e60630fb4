"""The training loop: epochs of mapped steps, a hook after each, logs and checkpoints that survive a kill."""

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import numpy as np

from arada.errors import UserError
from arada.training.checkpoints import Checkpoints
from arada.training.progress import Progress
from arada.training.replication import Replicas
from arada.training.state import Supervision, TrainState

logger = logging.getLogger(__name__)

if TYPE_CHECKING:  # clu's writers import TensorFlow
    from clu.metric_writers import MetricWriter

    from arada.data.splits import Examples

# (epoch, state, supervision) -> (supervision of the next epoch, metrics of this one)
AfterEpoch = Callable[[int, TrainState, Supervision], tuple[Supervision, dict[str, float]]]


def train(
    name: str,
    mapped_step: Callable,
    state: TrainState,
    supervision: Supervision,
    split: "Examples",
    *,
    replicas: Replicas,
    epochs: int,
    batch_size: int,
    seed: int,
    key: jax.Array,
    after_epoch: AfterEpoch,
    writer: "MetricWriter",
    checkpoints: Checkpoints,
    log_every_steps: int,
    checkpoint_every_steps: int,
    run: dict,
) -> tuple[TrainState, Supervision]:
    """Trains from `state.step` to the end of the last epoch and saves the result.

    Args:
      name: of the run, for its progress lines.
      mapped_step: the mapped train step of `arada.training.step`.
      state, supervision: fresh or restored; a state at the end of an epoch goes with the supervision of the next.
      split: the training images.
      seed: of the data order, which is a function of (seed, epoch).
      key: of everything random inside a step.
      after_epoch: called once after every epoch.
      log_every_steps: metrics are means over so many steps, and over what is left at the end of an epoch.
      checkpoint_every_steps: at the first logged step that is at least so many steps after the last checkpoint; a
        mean is therefore never cut in two by a kill.
      run: what to keep beside the arrays (config, seed).

    Raises UserError if a loss or gradient is not finite; the last checkpoint is then the one before.
    """
    steps_per_epoch = len(split) // batch_size
    total = epochs * steps_per_epoch
    step = saved = logged = int(state.step)
    state, key = replicas.replicate((state, key))
    progress = Progress(name, "step", total, batch_size)
    if step:
        logger.info("%s: resuming at step %d of %d", name, step, total)
    logger.info("%s: compiling the train step", name)
    compile_start = time.monotonic()
    window, window_start = [], 0.0
    while step < total:
        epoch, skip = divmod(step, steps_per_epoch)
        learnt = replicas.replicate(supervision.learnt)
        for batch in split.epoch(batch_size, seed=seed, epoch=epoch, skip=skip, share=replicas.share):
            batch["subset"] = subset_of(supervision, np.searchsorted(split.example_id, batch["example_id"]))
            state, metrics = mapped_step(state, batch, learnt, key)
            window.append(metrics)
            step += 1
            if compile_start:
                jax.block_until_ready(metrics)
                logger.info("%s: compiled in %.1f s", name, time.monotonic() - compile_start)
                compile_start = 0.0
                progress.update(step)
            epoch_ends = step % steps_per_epoch == 0
            if not (epoch_ends or (step % steps_per_epoch) % log_every_steps == 0):
                continue
            means = _means(name, window, logged, step)
            len_window, logged, window = len(window), step, []
            progress.update(step, f"epoch {epoch + 1}/{epochs}, loss {means['train/loss']:.3f}")
            writer.write_scalars(step, means | {"epoch": step / steps_per_epoch})
            if window_start:
                seconds = time.monotonic() - window_start
                writer.write_scalars(step, {"images_per_second": len_window * batch_size / seconds})
            if epoch_ends:
                supervision, of_epoch = after_epoch(epoch, state, supervision)
                writer.write_scalars(step, of_epoch)
                writer.flush()
            if step - saved >= checkpoint_every_steps or step == total:
                # The log first: rows after a checkpoint are dropped on resume, rows before it must be there.
                writer.flush()
                checkpoints.save(step, state, supervision, run)
                saved = step
            # Validation, logs and checkpoints are no part of a step's speed; nor is the first window's compilation.
            window_start = time.monotonic()
    return state, supervision


def subset_of(supervision: Supervision, at: np.ndarray) -> np.ndarray:
    """The subset of the training images at positions `at` int[B], or [B, M] of M members, who may rank differently."""
    subset = supervision.train_subset
    return subset[at] if subset.ndim == 1 else subset[np.arange(len(subset)), at]


def _means(name: str, window: list[dict], first: int, last: int) -> dict[str, float]:
    window = jax.device_get(window)
    means = {f"train/{key}": float(np.mean([metrics[key] for metrics in window])) for key in window[0]}
    # The loss is that before an update; a gradient that is not finite spoils the weights after it.
    broken = [key for key, value in means.items() if not math.isfinite(value)]
    if broken:
        raise UserError(
            f"{name}: {' and '.join(broken)} not finite between steps {first + 1} and {last}; lower "
            f"optimizer.learning_rate (the last checkpoint is kept)"
        )
    return means
