import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from arada.models.layers import BATCH_AXIS, Conv, batch_norm, convolution

SHAPES = [
    pytest.param(kernel, stride, size, id=f"{kernel}x{kernel}-stride{stride}-map{size}")
    for kernel in (1, 3)
    for stride in (1, 2)
    for size in (8, 32)
]


def stock(x, kernel, strides=(1, 1), padding="SAME"):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def example(kernel, size, batch=2, channels=3, features=5):
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.normal(size=shape) for shape in ((batch, size, size, channels), (kernel, kernel, channels, features))
    )
    return x.astype(np.float32), kernel.astype(np.float32)


def value_and_gradients(conv, strides, padding="SAME"):
    """(x, kernel) -> (y, dx, dkernel), with a cotangent that differs everywhere."""

    def f(x, kernel):
        y, backward = jax.vjp(lambda x, kernel: conv(x, kernel, strides, padding), x, kernel)
        return y, *backward(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    return f


def assert_same(actual, expected):
    """Sums of the same products in another order: a few roundings of the largest value."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=0, atol=8 * np.finfo(np.float32).eps * np.abs(e).max())


@pytest.mark.parametrize(("kernel", "stride", "size"), SHAPES)
def test_is_laxs_convolution_forward_and_backward(kernel, stride, size):
    arrays = example(kernel, size)
    ours, laxs = (jax.jit(value_and_gradients(conv, (stride, stride)))(*arrays) for conv in (convolution, stock))
    assert_same(ours, laxs)


# Every way that the CPU has, and the stock one.
@pytest.mark.parametrize(("kernel", "stride", "size"), [(1, 1, 8), (1, 2, 32), (3, 1, 8), (3, 1, 32), (3, 2, 32)])
def test_inside_a_loop(kernel, stride, size):
    def sums(conv):
        f = value_and_gradients(conv, (stride, stride))

        def body(i, total):
            return jax.tree.map(jnp.add, total, f(x * (1 + 0.5 * i), weights))

        return lax.fori_loop(0, 3, body, jax.tree.map(jnp.zeros_like, f(x, weights)))

    x, weights = example(kernel, size)
    assert_same(jax.jit(sums, static_argnums=0)(convolution), jax.jit(sums, static_argnums=0)(stock))


@pytest.mark.parametrize(
    ("kernel", "strides", "padding", "size"),
    [
        (1, (1, 1), ((1, 1), (1, 1)), 8),
        (1, (2, 2), "VALID", 7),
        (3, (1, 1), "VALID", 8),
        (3, (1, 1), ((1, 1), (1, 1)), 8),
        (3, (2, 2), ((1, 1), (1, 1)), 8),
        (7, (2, 2), ((3, 3), (3, 3)), 32),
        (2, (1, 1), "SAME", 8),
        (5, (1, 1), "SAME", 8),
        (3, (1, 2), "SAME", 9),
        (3, (1, 1), "SAME", 2),
    ],
)
def test_other_kernels_strides_and_paddings(kernel, strides, padding, size):
    arrays = example(kernel, size)
    ours, laxs = (jax.jit(value_and_gradients(conv, strides, padding))(*arrays) for conv in (convolution, stock))
    assert_same(ours, laxs)


@pytest.mark.parametrize(("kernel", "size"), [(1, 8), (3, 8), (3, 12)])
def test_under_vmap(kernel, size):
    x = np.stack([example(kernel, size)[0] * scale for scale in (1, -2, 3)])
    kernels = np.stack([example(kernel, size)[1] + shift for shift in (0, 1, 2)])
    f = jax.jit(value_and_gradients(convolution, (1, 1)))
    one_by_one = [f(*pair) for pair in zip(x, kernels, strict=True)]
    assert_same(jax.jit(jax.vmap(f))(x, kernels), jax.tree.map(lambda *parts: jnp.stack(parts), *one_by_one))
    shared = [f(images, kernels[0]) for images in x]
    assert_same(jax.jit(jax.vmap(f, (0, None)))(x, kernels[0]), jax.tree.map(lambda *parts: jnp.stack(parts), *shared))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize(("kernel", "stride", "size"), SHAPES)
def test_accelerators_get_the_stock_convolution(platform, kernel, stride, size):
    def program(conv, platform):
        f = jax.jit(value_and_gradients(conv, (stride, stride)))
        return export.export(f, platforms=[platform])(*example(kernel, size)).mlir_module()

    ours = program(convolution, platform)
    # Forward and both gradients, as many as lax has itself, and no product beside them.
    assert ours.count("stablehlo.convolution") == program(stock, platform).count("stablehlo.convolution") == 3
    assert "stablehlo.dot_general" not in ours
    if kernel == 1 or (stride == 1 and size == 8):
        assert "stablehlo.convolution" not in program(convolution, "cpu")


def test_one_program_for_several_platforms():
    exported = export.export(jax.jit(convolution), platforms=["cpu", "tpu"])(*example(1, 8))
    assert "stablehlo.convolution" in exported.mlir_module()
    assert_same(exported.call(*example(1, 8)), stock(*example(1, 8)))


def test_conv_adds_a_bias_to_each_feature():
    x, kernel = example(3, 8)
    layer = Conv(5, use_bias=True)
    bias = np.arange(5, dtype=np.float32)
    assert jax.tree.map(jnp.shape, layer.init(jax.random.key(0), x)["params"]) == {"kernel": (3, 3, 3, 5), "bias": (5,)}
    assert "bias" not in Conv(5).init(jax.random.key(0), x)["params"]
    assert_same(layer.apply({"params": {"kernel": kernel, "bias": bias}}, x), stock(x, kernel) + bias)


def test_kernels_are_he_normal():
    kernel = Conv(256).init(jax.random.key(0), jnp.zeros((1, 4, 4, 64)))["params"]["kernel"]
    # Fan in 3 * 3 * 64, truncated at two deviations of the underlying normal, 147,456 values.
    deviation = np.sqrt(2 / (3 * 3 * 64))
    assert np.std(kernel) == pytest.approx(deviation, rel=0.01)
    assert np.abs(kernel).max() < 2 * deviation / 0.8796
    assert abs(np.mean(kernel)) < 4 * deviation / np.sqrt(kernel.size)


def test_arithmetic_in_another_dtype_keeps_float32_parameters():
    x = example(3, 8)[0]
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
