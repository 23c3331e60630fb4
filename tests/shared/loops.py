"""What tests of the training loop share: a run of three epochs, and ways to end it early."""

import functools

import jax
import numpy as np

from arada import soft_labels
from arada.runtime import files

# Of the 72 images a batch of 16 leaves four steps an epoch.
EPOCHS, BATCH, PER_EPOCH = 3, 16, 4
TOTAL = EPOCHS * PER_EPOCH
START = soft_labels.SoftLabelState(np.ones(2, np.float32), 3)


class Killed(Exception):
    """Stands for the end of the process."""


def softened(epoch, state, supervision):
    """A hook whose result depends on the epoch, the weights and the supervision before."""
    mean = float(np.mean(state.params["Dense_0"]["kernel"]))
    p_correct = supervision.learnt.p_correct * np.float32(0.9 + 0.01 * epoch + 0.01 * np.tanh(mean))
    labels = supervision.learnt.replace(p_correct=p_correct)
    return supervision.replace(learnt=labels), {"soft_label": float(p_correct[0]), "dense": mean}


def rows(directory):
    """metrics.jsonl without the speed, which no two runs share."""
    lines = files.read_json_lines(directory / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in lines]


def saved_steps(directory):
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir() if path.name.isdigit())


def assert_bit_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, e)


def recording(task, calls):
    """The step, with its arguments kept in `calls`."""

    def step(state, batch, labels, key):
        # Without the axis of devices.
        host = {key: np.asarray(value).reshape(-1, *value.shape[2:]) for key, value in batch.arrays.items()}
        calls.append((int(state.step), host, np.asarray(labels.p_correct)))
        return task.step(state, batch, labels, key)

    return step


def stop_at(moment, step):
    """Arguments of `run` that end it at `step`: before a step, while logging it, or in the hook."""
    if moment == "step":

        def before(task_step, state, *args):
            if int(state.step) == step:
                raise Killed
            return task_step(state, *args)

        return lambda task: {"step": functools.partial(before, task.step)}
    if moment == "hook":

        def hook(epoch, state, supervision):
            if int(state.step) == step:
                raise Killed
            return softened(epoch, state, supervision)

        return lambda task: {"hook": hook}

    def around_writer(writer):
        write = writer.write_scalars

        def write_scalars(of_step, scalars):
            # A log may reach the disk ahead of its checkpoint.
            write(of_step, scalars)
            if of_step == step:
                writer.flush()
                raise Killed

        writer.write_scalars = write_scalars
        return writer

    return lambda task: {"around_writer": around_writer}
