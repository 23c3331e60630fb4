"""Memory does not grow with steps, epochs or images: what is held is a few batches, however many there are."""

import gc
import tracemalloc

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arada import methods
from arada.data.splits import Split
from arada.runs import ranking as rankings
from arada.training import loop
from arada.training import step as steps
from arada.training.checkpoints import Checkpoints
from arada.training.logs import open_writer
from arada.training.replication import Replicas
from arada.training.state import Supervision, init_state

SHAPE, BATCH, MEGABYTE = (32, 32, 3), 50, 2**20
# Float32 images, 0.6 MB a batch: a few that stay would show.
BATCH_BYTES = BATCH * 4 * 32 * 32 * 3


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(x.reshape(len(x), -1))


@pytest.fixture
def measured():
    """The bytes that Python, NumPy and JAX hold, without garbage."""
    tracemalloc.start()

    def bytes_now():
        gc.collect()
        return tracemalloc.get_traced_memory()[0], sum(array.nbytes for array in jax.live_arrays())

    yield bytes_now
    tracemalloc.stop()


def test_training_holds_no_more_after_many_steps(tmp_path, measured):
    replicas = Replicas(jax.devices()[:2])
    optimizer, method = optax.sgd(0.01, momentum=0.9), methods.SoftLabels(num_subsets=1, num_classes=3)
    split = Split(
        np.random.default_rng(0).random((200, *SHAPE), np.float32),
        np.arange(200, dtype=np.int32) % 3,
        np.arange(200, dtype=np.int32),
    )
    step = steps.train_step(
        Linear(), method, lambda key, ids, images, normalize: normalize(images), optimizer, lambda params: 0.0
    )
    normalization = {"mean": np.zeros(1, np.float32), "scale": np.ones(1, np.float32)}
    held = []

    def after_epoch(epoch, state, supervision):
        if epoch in (11, 23):
            held.append(measured())
        return supervision, {"epoch_loss": 0.0}

    with Checkpoints(tmp_path / "checkpoints") as checkpoints, open_writer(tmp_path, 0) as writer:
        loop.train(
            "run/seed_0",
            split,
            program=loop.Program(
                replicas.map(step, in_axes=(None, 0, None, None), out_axes=(None, None), donate_argnums=(0,)), replicas
            ),
            start=loop.Start(
                init_state(Linear(), optimizer, normalization, SHAPE, jax.random.key(0)),
                Supervision(method.init(), np.zeros(200, np.int32), np.zeros(5, np.int32)),
                jax.random.key(1),
            ),
            plan=loop.Plan(epochs=24, batch_size=BATCH, seed=0, log_every_steps=2, checkpoint_every_steps=16),
            after_epoch=after_epoch,
            records=loop.Records(writer, checkpoints, {}),
        )
    (host_before, device_before), (host_after, device_after) = held
    # 48 steps and three checkpoints later. The log keeps its rows, about a kilobyte each.
    assert device_after == device_before
    assert host_after - host_before < 24 * 2048 + BATCH_BYTES / 4


class Endless:
    """A split whose images are made when they are asked for, as streamed ones are."""

    image_shape, label_range = SHAPE, (0, 2)

    def __init__(self, count):
        self.example_id = np.arange(count, dtype=np.int32)
        self.label = self.example_id % 3

    def __len__(self):
        return len(self.example_id)

    def in_order(self, batch_size, *, batches=None):
        for number in range(len(self) // batch_size) if batches is None else batches:
            at = np.arange(number * batch_size, (number + 1) * batch_size)
            image = np.random.default_rng(number).random((batch_size, *SHAPE), np.float32)
            mask = np.ones(batch_size, bool)
            yield {"image": image, "label": self.label[at], "example_id": self.example_id[at], "mask": mask}


def test_ranking_holds_no_more_for_more_images(tmp_path, measured):
    replicas = Replicas(jax.devices()[:2])

    def score(variables, batch):
        return {"score": jnp.mean(batch["image"], axis=(1, 2, 3)) * variables, "predicted": batch["label"]}

    mapped = replicas.map(score, in_axes=(None, 0), out_axes=0)
    settings = {"num_subsets": 10, "batch_size": BATCH, "replicas": replicas}
    peaks = []
    for count in (500, 1000, 6000):  # the first one compiles
        before, _ = measured()
        tracemalloc.reset_peak()
        rankings.rank("train", mapped, np.float32(1), Endless(count), directory=tmp_path / str(count), **settings)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    # 5,000 images more are 59 MB, their numbers and the parts' 0.2 MB a copy.
    assert peaks[2] - peaks[1] < 3 * MEGABYTE
    assert peaks[1] > BATCH_BYTES
