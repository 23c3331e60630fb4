import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from arada import models
from arada.models.layers import BATCH_AXIS, Conv, batch_norm, convolution

SHAPES = [
    pytest.param(kernel, stride, size, id=f"{kernel}x{kernel}-stride{stride}-map{size}")
    for kernel in (1, 3)
    for stride in (1, 2)
    for size in (2, 32)
]


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


def assert_rounded(actual, x, kernel, strides=(1, 1), padding="SAME"):
    """(y, dx, dkernel) are lax's in float64, but for four roundings of the sum of the absolute products."""
    cotangent = cotangent_of(actual[0])

    def in_float64(*arrays):
        x, kernel, cotangent = (np.float64(a) for a in arrays)
        with jax.enable_x64(True):
            y, backward = jax.vjp(lambda x, kernel: stock(x, kernel, strides, padding), x, kernel)
            return y, *backward(jnp.asarray(cotangent))

    exact = in_float64(x, kernel, cotangent)
    scale = in_float64(np.abs(x), np.abs(kernel), np.abs(cotangent))
    for a, e, s in zip(actual, exact, scale, strict=True):
        assert a.dtype == np.float32
        assert a.shape == e.shape
        assert np.all(np.abs(np.float64(a) - np.asarray(e)) <= 4 * np.finfo(np.float32).eps * np.asarray(s))


def assert_same(actual, expected):
    """Sums of the same products in another order: a few roundings of the largest value."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=0, atol=8 * np.finfo(np.float32).eps * np.abs(e).max())


@pytest.mark.parametrize(("kernel", "stride", "size"), SHAPES)
def test_is_laxs_convolution_forward_and_backward(kernel, stride, size):
    arrays = example(kernel, size)
    ours = jax.jit(value_and_gradients(convolution, (stride, stride)))(*arrays)
    assert_rounded(ours, *arrays, (stride, stride))


# Every way that the CPU has, and the stock one.
@pytest.mark.parametrize(("kernel", "stride", "size"), [(1, 1, 8), (1, 2, 32), (3, 1, 2), (3, 1, 32), (3, 2, 32)])
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
        (3, (1, 1), "SAME", 1),
        (5, (1, 1), "SAME", 3),
    ],
)
def test_other_kernels_strides_and_paddings(kernel, strides, padding, size):
    arrays = example(kernel, size)
    ours = jax.jit(value_and_gradients(convolution, strides, padding))(*arrays)
    assert_rounded(ours, *arrays, strides, padding)


@pytest.mark.parametrize(("kernel", "size"), [(1, 8), (3, 2), (3, 12)])
def test_under_vmap(kernel, size):
    x = np.stack([example(kernel, size)[0] * scale for scale in (1, -2, 3)])
    kernels = np.stack([example(kernel, size)[1] + shift for shift in (0, 1, 2)])
    f = jax.jit(value_and_gradients(convolution, (1, 1)))
    one_by_one = [f(*pair) for pair in zip(x, kernels, strict=True)]
    assert_same(jax.jit(jax.vmap(f))(x, kernels), jax.tree.map(lambda *parts: jnp.stack(parts), *one_by_one))
    shared = [f(images, kernels[0]) for images in x]
    assert_same(jax.jit(jax.vmap(f, (0, None)))(x, kernels[0]), jax.tree.map(lambda *parts: jnp.stack(parts), *shared))


def many(batch, size=12, channels=6):
    """Enough images for the CPU's own kernel gradient of a larger map."""
    return example(3, size, batch, channels, channels + 1)


@pytest.mark.parametrize(("batch", "size"), [(128, 12), (71, 9), (66, 11)])
def test_kernel_gradient_of_many_images(batch, size):
    arrays = many(batch, size)
    ours = jax.jit(value_and_gradients(convolution, (1, 1)))
    assert "stablehlo.while" in ours.lower(*arrays).as_text()
    assert_rounded(ours(*arrays), *arrays)


def test_kernel_gradient_of_many_images_under_vmap_and_in_a_loop():
    x, kernel = many(66)
    pairs = np.stack([x, -x]), np.stack([kernel, kernel + 1])
    f = value_and_gradients(convolution, (1, 1))
    for many_at_once in (jax.vmap(f), lambda *pairs: lax.map(lambda pair: f(*pair), pairs)):
        found = jax.jit(many_at_once)(*pairs)
        for i in range(2):
            assert_rounded([a[i] for a in found], pairs[0][i], pairs[1][i])


def test_kernel_gradient_of_many_images_in_bfloat16():
    arrays = [a.astype(jnp.bfloat16) for a in many(256)]

    def gradient(conv, *arrays):
        x, kernel = arrays
        y, backward = jax.vjp(conv, x, kernel)
        return backward(cotangent_of(y).astype(y.dtype))[1]

    ours = jax.jit(functools.partial(gradient, convolution))(*arrays)
    assert ours.dtype == jnp.bfloat16
    exact = jax.jit(functools.partial(gradient, stock))(*(a.astype(jnp.float32) for a in arrays))
    # The cotangent is rounded to bfloat16 beforehand, the sum once.
    assert (
        np.abs(ours.astype(jnp.float32) - exact).max() <= 2 * float(jnp.finfo(jnp.bfloat16).eps) * np.abs(exact).max()
    )


@pytest.mark.parametrize("size", [8, 12])
@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_on_two_devices(mapping, size):
    x, kernel = many(132, size)
    devices = jax.devices()[:2]
    f = value_and_gradients(convolution, (1, 1))
    shards = x.reshape(2, 66, *x.shape[1:])
    if mapping == "pmap":
        actual = jax.pmap(f, in_axes=(0, None), devices=devices)(shards, kernel)
    else:
        spec = jax.sharding.PartitionSpec("d")
        one = jax.shard_map(
            lambda x, kernel: jax.tree.map(lambda a: a[None], f(x[0], kernel)),
            mesh=jax.sharding.Mesh(devices, "d"),
            in_specs=(spec, jax.sharding.PartitionSpec()),
            out_specs=spec,
            check_vma=False,
        )
        actual = jax.jit(one)(shards, kernel)
    for i in range(2):
        assert_rounded([np.asarray(a)[i] for a in actual], shards[i], kernel)


def test_forward_mode_is_refused():
    x, kernel = example(3, 8)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(convolution, (x, kernel), (x, kernel))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_get_the_stock_convolution_for_many_images(platform):
    f = jax.jit(value_and_gradients(convolution, (1, 1)))
    program = export.export(f, platforms=[platform])(*many(66)).mlir_module()
    assert program.count("stablehlo.convolution") == 3
    assert "stablehlo.while" not in program
    assert "stablehlo.dot_general" not in program


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
    if kernel == 1 or (stride == 1 and size == 2):
        # Of a kernel larger than its map the stock gradient is the fast one.
        assert program(convolution, "cpu").count("stablehlo.convolution") == (0 if kernel == 1 else 1)


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


@pytest.mark.parametrize(("name", "depth"), [("resnet_v1", 50), ("resnet_v2", 11), ("wide_resnet", 10)])
def test_the_momentum_weighs_old_statistics_in_every_layer(name, depth):
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)

    def after_a_step(momentum):
        fields = {"depth": depth, "width": 1, "batch_norm": "per_device", "batch_norm_momentum": momentum}
        model = models.build(name, 3, **fields)
        variables = jax.jit(model.init)(jax.random.key(0), images)
        step = jax.jit(lambda variables: model.apply(variables, images, train=True, mutable=["batch_stats"])[1])
        return variables["batch_stats"], step(variables)["batch_stats"]

    # Momentum 0 leaves the batch's own.
    (before, of_batch), (_, mixed) = after_a_step(0.0), after_a_step(0.25)
    jax.tree.map(
        lambda old, new, found: np.testing.assert_allclose(found, 0.25 * old + 0.75 * new, rtol=1e-4, atol=1e-6),
        before,
        of_batch,
        mixed,
    )
