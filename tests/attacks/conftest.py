"""Two classifiers to attack: one whose distances are known in closed form, one that has learnt something."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from arada import attacks


class Affine(NamedTuple):
    weights: np.ndarray
    bias: np.ndarray
    images: np.ndarray

    def logits(self, images):
        return jnp.reshape(images, (len(images), -1)) @ self.weights + self.bias

    def distances(self):
        """Closed form, |margin| / ||w|| in float64, for each image."""
        flat, weights = (np.asarray(x, np.float64) for x in (self.images.reshape(len(self.images), -1), self.weights))
        ordered = np.sort(flat @ weights + self.bias, axis=-1)
        return (ordered[:, -1] - ordered[:, -2]) / np.linalg.norm(weights[:, 0] - weights[:, 1])


@pytest.fixture(scope="session")
def affine():
    """Grey images, so far from 0 and 1 that the box does not bind, and orthogonal weights of equal norms.

    The norms decide that the runner-up is also the nearest class. Attacks that follow the runner-up, as CW and FMN do,
    find a local minimum where another hyperplane is nearer.
    """
    rng = np.random.default_rng(0)
    orthogonal, _ = np.linalg.qr(rng.normal(size=(12, 4)))
    return Affine(
        weights=(10 * orthogonal).astype(np.float32),
        bias=rng.normal(0, 0.5, 4).astype(np.float32),
        images=rng.uniform(0.35, 0.65, (10, 2, 3, 2)).astype(np.float32),
    )


class Digits(NamedTuple):
    params: dict[str, jax.Array]
    images: np.ndarray


def conv_net(params, images):
    """Two 3x3 convolutions, the second with stride 2, and a dense layer."""
    x = images
    for layer, stride in (("1", 1), ("2", 2)):
        x = jax.lax.conv_general_dilated(
            x, params["kernel" + layer], (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params["bias" + layer])
    return jnp.reshape(x, (len(x), -1)) @ params["dense"] + params["bias"]


@pytest.fixture(scope="session")
def digits():
    """`conv_net` trained for two seconds on 1,400 digits of scikit-learn, and 48 others to attack."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    rng = np.random.default_rng(0)

    def kernel(*shape):
        return jnp.asarray(rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape), jnp.float32)

    params = {
        "kernel1": kernel(3, 3, 1, 8),
        "bias1": jnp.zeros(8),
        "kernel2": kernel(3, 3, 8, 16),
        "bias2": jnp.zeros(16),
        "dense": kernel(4 * 4 * 16, 10),
        "bias": jnp.zeros(10),
    }
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, optimizer_state, images, labels):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(conv_net(params, images), labels).mean()

        updates, optimizer_state = optimizer.update(jax.grad(loss)(params), optimizer_state)
        return optax.apply_updates(params, updates), optimizer_state

    optimizer_state = optimizer.init(params)
    for _ in range(300):
        batch = rng.integers(0, 1400, 64)
        params, optimizer_state = step(params, optimizer_state, images[batch], labels[batch])
    held_out = slice(1400, 1448)
    accuracy = np.mean(np.argmax(conv_net(params, images[held_out]), axis=-1) == labels[held_out])
    assert accuracy > 0.8, f"the digits network has learnt nothing: accuracy {accuracy}"
    return Digits(params, images[held_out])


@pytest.fixture(scope="session")
def digits_logits(digits):
    return functools.partial(conv_net, digits.params)


@pytest.fixture(scope="session")
def carlini_wagner_on_digits(digits_logits, digits):
    """The attack as the paper has it."""
    return jax.jit(lambda images: attacks.cw_l2(digits_logits, images))(digits.images)
