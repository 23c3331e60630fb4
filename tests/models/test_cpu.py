"""The convolution of CPUs against lax, and which platform takes which; whole networks against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import assert_gradients_are_exact, cotangent_of, example, stock, value_and_gradients
from jax import export, lax

from arada.models import ResNetV2, WideResNet
from arada.models.cpu import convolution

SHAPES = [
    pytest.param(kernel, stride, size, id=f"{kernel}x{kernel}-stride{stride}-map{size}")
    for kernel in (1, 3)
    for stride in (1, 2)
    for size in (2, 32)
]


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


@pytest.mark.parametrize(
    ("model", "size"),
    [
        pytest.param(ResNetV2(3, depth=11, width=4), 16, id="ResNet v2"),
        pytest.param(WideResNet(3, depth=10, width=1), 8, id="wide ResNet"),
    ],
)
def test_gradients_of_networks_are_those_of_stock_operations_in_float64(monkeypatch, model, size):
    assert_gradients_are_exact(monkeypatch, model, size)
