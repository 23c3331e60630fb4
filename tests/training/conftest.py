"""Tiny networks and the mapped train steps that several tests share: compiling takes most of their time."""

import functools
import types
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import loops
import numpy as np
import optax
import pytest

from arada import methods, soft_labels
from arada.data.splits import Split
from arada.models.layers import Conv, batch_norm
from arada.training import loop
from arada.training import step as steps
from arada.training.augmentation import augment
from arada.training.checkpoints import Checkpoints
from arada.training.logs import open_writer
from arada.training.optimizers import l2_penalty
from arada.training.replication import Replicas
from arada.training.state import Supervision, TrainState

CLASSES, SUBSETS, BATCH, SHAPE = 3, 2, 16, (8, 8, 1)
OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    # No momentum: a step is the gradient times -0.1.
    "descent": lambda: optax.sgd(0.1),
    "adam": lambda: optax.adam(1e-3, eps=1e-7),
}


class Small(nn.Module):
    """Two convolutions with biases that feed batch norms, and a dense layer."""

    batch_norm: str = "global"

    @nn.compact
    def __call__(self, x, train=False):
        norm = batch_norm(self.batch_norm, train=train, momentum=0.9, epsilon=1e-3)
        x = nn.relu(norm()(Conv(4, use_bias=True)(x)))
        x = nn.relu(norm()(Conv(8, strides=(2, 2), use_bias=True)(x)))
        return nn.Dense(CLASSES)(jnp.mean(x, axis=(1, 2)))


class Training(NamedTuple):
    """A mapped train step with what it is applied to."""

    step: Any
    replicas: Replicas
    model: nn.Module
    optimizer: optax.GradientTransformation
    traces: list[int]

    def fresh(self, seed=0):
        """A state as `init_state` makes it, but drawn by NumPy: compiling the drawing takes longer than a test."""
        rng = np.random.default_rng(seed)

        def draw(path, leaf):
            start = {"kernel": None, "scale": 1, "var": 1, "bias": 0, "mean": 0}[path[-1].key]
            if start is None:
                deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
                return rng.normal(0, deviation, leaf.shape).astype(np.float32)
            return np.full(leaf.shape, start, np.float32)

        shapes = jax.eval_shape(self.model.init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
        variables = jax.tree_util.tree_map_with_path(draw, shapes)
        normalization = {"mean": np.full(SHAPE, 0.5, np.float32), "scale": np.full(1, 0.25, np.float32)}
        opt_state = self.optimizer.init(variables["params"])
        return TrainState(
            np.zeros((), np.int32),
            variables["params"],
            variables.get("batch_stats", {}),
            normalization=normalization,
            opt_state=opt_state,
        )

    def run(self, batches, state=None, labels=None, key=0):
        """The states before, between and after the steps, and each step's metrics, in host memory."""
        state = self.replicas.replicate(self.fresh() if state is None else state)
        labels = self.replicas.replicate(soft_labels.init(SUBSETS, CLASSES, 0.1) if labels is None else labels)
        key = self.replicas.replicate(jax.random.key(key))
        states, metrics = [jax.device_get(state)], []
        for batch in batches:
            state, of_step = self.step(state, batch, labels, key)
            states.append(jax.device_get(state))
            metrics.append(jax.device_get(of_step))
        return states, metrics


@pytest.fixture(scope="session")
def training():
    """(devices, mapping, optimizer, ...) -> Training; one and the same for the same arguments."""

    @functools.cache
    def build(
        devices=2,
        mapping="pmap",
        optimizer="sgd",
        model=None,
        augmentation="shift_and_flip",
        l2=1e-3,
        method=None,
        accumulate=1,
    ):
        model, optimizer = model or Small(), OPTIMIZERS[optimizer]()
        replicas = Replicas(jax.devices()[:devices], mapping)
        penalty = functools.partial(l2_penalty, coefficient=l2, targets="convolutions")
        traces = []

        method = method or methods.SoftLabels(num_subsets=SUBSETS, num_classes=CLASSES)

        def loss(*args):
            traces.append(len(traces))
            return method.loss(*args)

        step = steps.train_step(
            model,
            types.SimpleNamespace(loss=loss),
            functools.partial(augment, augmentation),
            optimizer,
            penalty,
            accumulate,
        )
        mapped = replicas.map(step, in_axes=(None, 0, None, None), out_axes=(None, None), donate_argnums=(0,))
        return Training(mapped, replicas, model, optimizer, traces)

    return build


@pytest.fixture(scope="session")
def split():
    """72 noisy images whose brightness tells the class, with ids that leave gaps: four batches of 16 an epoch."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, 72).astype(np.int32)
    image = np.clip(rng.normal(80 + 50 * label[:, None, None, None], 40, (72, *SHAPE)), 0, 255).astype(np.uint8)
    return Split(image, label, np.arange(100, 316, 3, dtype=np.int32))


@pytest.fixture(scope="session")
def batches(split):
    """The four batches of the first epoch, with subsets."""
    return [batch | {"subset": batch["example_id"] % SUBSETS} for batch in split.epoch(BATCH, seed=0, epoch=0)]


@pytest.fixture(scope="module")
def task(training):
    return training(2, "pmap", "sgd")


@pytest.fixture(scope="module")
def run(task, split):
    """run(directory, ...) trains there as a process would: from its last checkpoint if there is one."""

    def run(
        directory,
        *,
        step=task.step,
        hook=loops.softened,
        learnt=loops.START,
        log_every=1,
        save_every=3,
        around_writer=lambda writer: writer,
    ):
        start = Supervision(learnt, (np.arange(len(split)) % 2).astype(np.int32), np.zeros(5, np.int32))
        with Checkpoints(directory / "checkpoints") as checkpoints:
            template = jax.device_get(task.fresh())
            state, supervision, window = checkpoints.restore(template, start) or (task.fresh(), start, [])
            with open_writer(directory, int(state.step) - len(window)) as writer:
                state, supervision = loop.train(
                    "run/seed_0",
                    split,
                    program=loop.Program(step, task.replicas),
                    start=loop.Start(state, supervision, jax.random.key(5), window),
                    plan=loop.Plan(
                        epochs=loops.EPOCHS,
                        batch_size=BATCH,
                        seed=0,
                        log_every_steps=log_every,
                        checkpoint_every_steps=save_every,
                    ),
                    after_epoch=hook,
                    records=loop.Records(around_writer(writer), checkpoints, {"seed": 0}),
                )
        return jax.device_get((state, supervision))

    return run


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The folder and the result of a run that nobody stopped."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, run(directory)


@pytest.fixture(scope="module")
def in_windows(run, tmp_path_factory):
    """The same, logged in windows of three steps."""
    directory = tmp_path_factory.mktemp("windows")
    return directory, run(directory, log_every=3)
