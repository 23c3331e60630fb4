import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada.models.cpu import convolution
from arada.models.layers import BATCH_AXIS, BatchNorm, Conv, batch_norm, conv_norm


def example():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 8, 8, 3)).astype(np.float32), rng.normal(size=(3, 3, 3, 5)).astype(np.float32)


def test_conv_adds_a_bias_to_each_feature():
    x, kernel = example()
    layer = Conv(5, use_bias=True)
    bias = np.arange(5, dtype=np.float32)
    assert jax.tree.map(jnp.shape, layer.init(jax.random.key(0), x)["params"]) == {"kernel": (3, 3, 3, 5), "bias": (5,)}
    assert "bias" not in Conv(5).init(jax.random.key(0), x)["params"]
    variables = {"params": {"kernel": kernel, "bias": bias}}
    np.testing.assert_array_equal(layer.apply(variables, x), convolution(x, kernel) + bias)
    np.testing.assert_array_equal(layer.apply(variables, x, bias_apart=True)[0], convolution(x, kernel))


def test_kernels_are_he_normal():
    kernel = Conv(256).init(jax.random.key(0), jnp.zeros((1, 4, 4, 64)))["params"]["kernel"]
    # Fan in 3 * 3 * 64, truncated at two deviations of the underlying normal, 147,456 values.
    deviation = np.sqrt(2 / (3 * 3 * 64))
    assert np.std(kernel) == pytest.approx(deviation, rel=0.01)
    assert np.abs(kernel).max() < 2 * deviation / 0.8796
    assert abs(np.mean(kernel)) < 4 * deviation / np.sqrt(kernel.size)


def test_arithmetic_in_another_dtype_keeps_float32_parameters():
    x = example()[0]
    layer = Conv(5, use_bias=True, dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert layer.apply(variables, x).dtype == jnp.bfloat16


def normalized(kind, x, devices):
    """(y, running statistics) of one training pass over x, cut among `devices` by a named axis."""
    norm = batch_norm(kind, train=True, momentum=0.9, epsilon=1e-3)()
    variables = batch_norm(kind, train=False, momentum=0.9, epsilon=1e-3)().init(jax.random.key(0), x)
    apply = functools.partial(norm.apply, variables, mutable=["batch_stats"])
    shards = jax.vmap(apply, axis_name=BATCH_AXIS)(x.reshape(devices, -1, *x.shape[1:]))
    return shards[0].reshape(x.shape), shards[1]["batch_stats"]


@pytest.mark.parametrize("kind", ["global", "per_device"])
def test_batch_norm_normalises_over_the_batch_or_the_device(kind):
    x = np.random.default_rng(0).normal(3, 2, (8, 2, 2, 3)).astype(np.float32)
    x[4:] *= 2  # the devices' shares differ
    groups = x.astype(np.float64).reshape(1 if kind == "global" else 2, -1, 3)
    mean, variance = groups.mean(axis=1, keepdims=True), groups.var(axis=1, keepdims=True)
    y, running = normalized(kind, x, devices=2)
    # flax takes the variance as mean of squares less squared mean, which loses a digit here.
    np.testing.assert_allclose(y, ((groups - mean) / np.sqrt(variance + 1e-3)).reshape(x.shape), rtol=0, atol=5e-6)
    np.testing.assert_allclose(running["mean"], np.broadcast_to(0.1 * mean[:, 0], (2, 3)), rtol=1e-6)
    np.testing.assert_allclose(running["var"], np.broadcast_to(0.9 + 0.1 * variance[:, 0], (2, 3)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["global", "per_device"])
def test_batch_norm_in_use_needs_no_axis(kind):
    norm: nn.Module = batch_norm(kind, train=False, momentum=0.9, epsilon=1e-3)()
    x = np.random.default_rng(0).normal(size=(4, 2, 2, 3)).astype(np.float32)
    stats = {"mean": np.array([0.0, 1, 2], np.float32), "var": np.array([1.0, 4, 9], np.float32)}
    params = {"scale": np.array([1.0, 2, 3], np.float32), "bias": np.array([0.0, -1, 1], np.float32)}
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-3) * params["scale"] + params["bias"]
    y = norm.apply({"params": params, "batch_stats": stats}, x)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_is_flaxs(train):
    """The same parameters by name, values and running statistics."""
    x = np.random.default_rng(0).normal(1, 2, (8, 2, 2, 3)).astype(np.float32)
    flaxs = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-3)
    ours = BatchNorm(train=train, momentum=0.9, epsilon=1e-3)
    variables = flaxs.init(jax.random.key(0), x)
    assert jax.tree.structure(variables) == jax.tree.structure(ours.init(jax.random.key(0), x))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda a: rng.uniform(0.5, 2, a.shape).astype(np.float32), variables)
    expected, actual = (norm.apply(variables, x, mutable=["batch_stats"]) for norm in (flaxs, ours))
    jax.tree.map(lambda e, a: np.testing.assert_allclose(a, e, rtol=1e-6, atol=2e-6), expected, actual)
    with_relu = BatchNorm(train=train, momentum=0.9, epsilon=1e-3, relu=True)
    np.testing.assert_array_equal(with_relu.apply(variables, x, mutable=["batch_stats"])[0], np.maximum(actual[0], 0))


class Normed(nn.Module):
    """A convolution with a bias and a norm, one after the other."""

    train: bool
    apart: bool

    @nn.compact
    def __call__(self, x):
        conv, norm = Conv(5, use_bias=True), BatchNorm(train=self.train, momentum=0.9, epsilon=1e-3, relu=True)
        return conv_norm(conv, norm)(x) if self.apart else norm(conv(x))


@pytest.mark.parametrize("train", [False, True])
def test_a_bias_before_a_norm_cancels(train):
    x, _ = example()
    variables = Normed(train, True).init(jax.random.key(0), x)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda a: rng.uniform(0.5, 1.5, a.shape).astype(np.float32), variables)

    def run(apart):
        def f(params):
            y, updated = Normed(train, apart).apply(variables | {"params": params}, x, mutable=["batch_stats"])
            return jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)), (y, updated)

        return jax.grad(f, has_aux=True)(variables["params"])

    (apart, (y, updated)), (joined, (y_joined, updated_joined)) = run(True), run(False)
    np.testing.assert_allclose(y, y_joined, rtol=0, atol=1e-5)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=2e-6), updated["batch_stats"], updated_joined["batch_stats"]
    )
    if train:
        np.testing.assert_array_equal(apart["Conv_0"].pop("bias"), 0)
        joined["Conv_0"].pop("bias")
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=0, atol=1e-5 * np.abs(e).max()), apart, joined)
