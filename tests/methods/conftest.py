"""A batch and a small network on which a method's loss and its gradient are taken, on any number of devices."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from arada.methods import Network
from arada.models import BATCH_AXIS
from arada.training.replication import Replicas

CLASSES, SUBSETS, BATCH, SHAPE = 3, 2, 12, (2, 3, 1)
# One mean a pixel, as of "mean_image", and a scale that shows where it is forgotten.
NORMALIZATION = {
    "mean": np.linspace(0.3, 0.6, 6, dtype=np.float32).reshape(SHAPE),
    "scale": np.full(1, 0.25, np.float32),
}


class Outcome(NamedTuple):
    """Losses [B], logits [B, Z] and the gradient of the mean loss."""

    losses: np.ndarray
    logits: np.ndarray
    gradient: dict


def small_network(params, images):
    """Two dense layers."""
    hidden = jnp.tanh(jnp.reshape(images, (len(images), -1)) @ params["first"])
    return hidden @ params["second"]


def identity(params, images):
    """Images as logits: a method of 6 classes then shows what it gave the network."""
    return jnp.reshape(images, (len(images), -1)) + 0 * params["first"][0, 0]


def masked(params, images):
    """The small network without its last class."""
    return small_network(params, images).at[:, -1].set(-jnp.inf)


def without_last(params, images):
    """As `masked`, with a logit less."""
    return small_network(params, images)[:, :-1]


NETWORKS = {"small": small_network, "identity": identity, "masked": masked, "without_last": without_last}


@pytest.fixture(scope="session")
def params():
    rng = np.random.default_rng(1)
    return {
        "first": rng.normal(0, 1, (6, 8)).astype(np.float32),
        "second": rng.normal(0, 1, (8, CLASSES)).astype(np.float32),
    }


@pytest.fixture(scope="session")
def normalization():
    return NORMALIZATION


@pytest.fixture(scope="session")
def batch():
    """Normalised images, labels, subsets, and ids that are no positions."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0.05, 0.95, (BATCH, *SHAPE)).astype(np.float32)
    return {
        "image": (pixels - NORMALIZATION["mean"]) / NORMALIZATION["scale"],
        "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
        "subset": rng.integers(0, SUBSETS, BATCH).astype(np.int32),
        "example_id": rng.permutation(500)[:BATCH].astype(np.int32),
    }


@pytest.fixture(scope="session")
def outcome(params):
    """outcome(method, batch, ...) -> Outcome, on any number of devices."""

    @functools.cache  # compiling takes most of the time
    def mapped(method, devices, mapping, forward, attacked):
        def step(params, learnt, key, batch):
            def objective(params):
                network = Network(
                    lambda images: (NETWORKS[forward](params, images), {}),
                    lambda images: NETWORKS[attacked or forward](params, images),
                    NORMALIZATION,
                )
                losses, logits, _ = method.loss(network, batch["image"], batch, learnt, key)
                return jnp.mean(losses), {"losses": losses, "logits": logits}

            gradient, outputs = jax.grad(objective, has_aux=True)(params)
            return outputs, lax.pmean(gradient, BATCH_AXIS)

        replicas = Replicas(jax.devices()[:devices], mapping)
        return replicas, replicas.map(step, in_axes=(None, None, None, 0), out_axes=(0, None))

    def of(method, batch, learnt=None, *, key=0, devices=1, mapping="pmap", forward="small", attacked=None):
        replicas, step = mapped(method, devices, mapping, forward, attacked)
        arguments = (params, method.init() if learnt is None else learnt, jax.random.key(key))
        outputs, gradient = step(*map(replicas.replicate, arguments), batch)
        return Outcome(**replicas.fetch(outputs), gradient=jax.device_get(gradient))

    return of


@pytest.fixture(scope="session")
def assert_same():
    """assert_same(a, b, rtol): two outcomes are equal, or to a rounding of the largest entry."""

    def same(actual, expected, rtol=0.0):
        leaves = zip(*map(jax.tree.leaves, (actual, expected)), strict=True)
        for a, e in leaves:
            np.testing.assert_allclose(a, e, rtol=0, atol=rtol * np.abs(e).max())

    return same
