"""Examples of convolutions and networks, their values and gradients, and XLA's own convolution."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arada.models import cpu
from launch.benchmarks.contestants import draw_variables


def stock(x, kernel, strides=(1, 1), padding="SAME"):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def example(kernel, size, batch=2, channels=3, features=5):
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.normal(size=shape) for shape in ((batch, size, size, channels), (kernel, kernel, channels, features))
    )
    return x.astype(np.float32), kernel.astype(np.float32)


def cotangent_of(y):
    """A value that differs everywhere, the same to the last bit wherever it is needed."""
    return np.sin(np.arange(y.size, dtype=np.float32)).reshape(y.shape)


def value_and_gradients(conv, strides, padding="SAME"):
    """(x, kernel) -> (y, dx, dkernel), with a cotangent that differs everywhere."""

    def f(x, kernel):
        y, backward = jax.vjp(lambda x, kernel: conv(x, kernel, strides, padding), x, kernel)
        return y, *backward(cotangent_of(y))

    return f


def assert_close(actual, expected, tolerance=3e-6):
    """To so much of the largest value."""
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == np.shape(e)
        np.testing.assert_allclose(np.float64(a), e, rtol=0, atol=tolerance * np.abs(e).max())


def gradients_of(model, variables, images):
    """(gradients by weights in training, gradient by images in use) of a weighted sum of the logits."""
    weights = np.cos(np.arange(len(images) * model.num_classes, dtype=np.float32)).reshape(len(images), -1)
    running = {"batch_stats": variables["batch_stats"]}

    def in_training(params):
        logits, _ = model.apply({"params": params} | running, images, train=True, mutable=["batch_stats"])
        return jnp.sum(logits * weights)

    def in_use(images):
        return jnp.sum(model.apply(variables, images) * weights)

    return jax.jit(jax.grad(in_training))(variables["params"]), jax.jit(jax.grad(in_use))(images)


def assert_gradients_are_exact(monkeypatch, model, size, kernels="stock"):
    """Those of the network, with these kernels, are the gradients of stock operations in float64.

    For small networks and images: among a million ReLUs some are so close to 0 that a rounding switches them.
    """
    images = np.random.default_rng(0).normal(size=(2, size, size, 3))
    model = model.clone(batch_norm="per_device")
    variables = draw_variables(model, images.shape[1:], seed=0)
    variables = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    with cpu.kernels(kernels):
        actual = gradients_of(model, variables, images.astype(np.float32))
    monkeypatch.setattr(cpu, "convolution", cpu.stock_convolution)
    monkeypatch.setattr(cpu, "batch_norm", cpu.stock_batch_norm)
    with jax.enable_x64(True):
        wide = jax.tree.map(np.float64, variables)
        expected = gradients_of(model.clone(dtype=jnp.float64), wide, images)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected[0]))
    for (path, a), e in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        if "Conv" in str(path) and "bias" in str(path):
            # Some norm further on cancels it, so the true gradient is 0, and what is left is rounding.
            assert np.abs(e).max() < 1e-12 * largest
            assert np.abs(a).max() <= 3e-6 * largest
        else:
            assert_close([a], [e])
