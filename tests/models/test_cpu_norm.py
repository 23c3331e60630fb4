"""Batch norm and ReLU with their hand-written gradient, against arithmetic and the stock operations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from arada.models import cpu


def stock(x, kernel, strides=(1, 1), padding="SAME"):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


# What a norm and its gradient are made of.
OPERATIONS = ("reduce", "multiply", "add", "subtract", "divide", "rsqrt", "maximum", "select", "compare")
NORMS = [(norm, relu) for norm in ("cpu", "stock") for relu in (False, True)]


def norm_example(batch=4, size=3, channels=5, dtype=np.float32):
    """(x, scale, bias, cotangent). Means are up to one deviation from 0, for a variance taken as mean of squares less
    squared mean loses digits beyond, on every platform."""
    rng = np.random.default_rng(0)
    shape = (batch, size, size, channels)
    x = rng.normal(np.linspace(-1, 1, channels), 1, shape)
    cotangent = rng.normal(size=shape)
    return [a.astype(dtype) for a in (x, rng.uniform(0.5, 1.5, channels), rng.normal(size=channels), cotangent)]


def norm_by_hand(x, scale, bias, cotangent, relu, epsilon):
    """(y, mean, variance, dx, dscale, dbias) in float64, by the textbook: dx = scale / sigma * (g - mean of g -
    z * mean of g z), z the normalised x and g what ReLU lets through."""
    x, scale, bias, cotangent = (np.float64(a) for a in (x, scale, bias, cotangent))
    axes = (0, 1, 2)
    mean, variance = x.mean(axes), x.var(axes)
    z = (x - mean) / np.sqrt(variance + epsilon)
    y = scale * z + bias
    g = np.where(y > 0, cotangent, 0) if relu else cotangent
    dx = scale / np.sqrt(variance + epsilon) * (g - g.mean(axes) - z * (g * z).mean(axes))
    return np.maximum(y, 0) if relu else y, mean, variance, dx, (g * z).sum(axes), g.sum(axes)


def norm_and_gradients(norm, relu, axis_name=None, epsilon=1e-3):
    """(x, scale, bias, cotangent) -> what `norm_by_hand` returns."""
    apply = {
        "cpu": functools.partial(cpu.batch_norm, epsilon=epsilon, relu=relu, axis_name=axis_name),
        "stock": functools.partial(cpu.stock_batch_norm, epsilon=epsilon, relu=relu, axis_name=axis_name),
    }[norm]

    def f(x, scale, bias, cotangent):
        (y, *statistics), backward = jax.vjp(apply, x, scale, bias)
        return y, *statistics, *backward((cotangent.astype(y.dtype), *map(jnp.zeros_like, statistics)))

    return f


def assert_close(actual, expected, tolerance=3e-6):
    """To so much of the largest value."""
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == np.shape(e)
        np.testing.assert_allclose(np.float64(a), e, rtol=0, atol=tolerance * np.abs(e).max())


@pytest.mark.parametrize(("norm", "relu"), NORMS)
def test_batch_norm_and_its_gradients(norm, relu):
    arrays = norm_example()
    assert_close(jax.jit(norm_and_gradients(norm, relu))(*arrays), norm_by_hand(*arrays, relu, epsilon=1e-3))


@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_takes_the_cpus_way(relu):
    text = str(jax.make_jaxpr(norm_and_gradients("cpu", relu))(*norm_example()))
    assert "optimization_barrier" in text
    program = jax.jit(norm_and_gradients("cpu", relu)).lower(*norm_example()).as_text()
    assert program.count("optimization_barrier") == 1 + relu


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_get_the_stock_batch_norm(platform):
    def program(norm):
        f = jax.jit(norm_and_gradients(norm, True))
        text = export.export(f, platforms=[platform])(*norm_example()).mlir_module()
        return [text.count(f"stablehlo.{name} ") + text.count(f"stablehlo.{name}(") for name in OPERATIONS], text

    (ours, text), (stock, _) = program("cpu"), program("stock")
    assert ours == stock
    assert "optimization_barrier" not in text


@pytest.mark.parametrize("mapping", ["pmap", "shard_map", "vmap"])
@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_over_devices(mapping, relu):
    """What two devices with one half each compute, joined, is what one computes of the whole. The gradients of scale
    and bias are sums over the devices' own images."""
    x, scale, bias, cotangent = norm_example(batch=8)
    f = norm_and_gradients("cpu", relu, axis_name="d")
    halves = [a.reshape(2, 4, *a.shape[1:]) for a in (x, cotangent)]
    if mapping == "shard_map":
        spec, whole = jax.sharding.PartitionSpec("d"), jax.sharding.PartitionSpec()
        mapped = jax.jit(
            jax.shard_map(
                lambda x, scale, bias, cotangent: jax.tree.map(lambda a: a[None], f(x[0], scale, bias, cotangent[0])),
                mesh=jax.sharding.Mesh(jax.devices()[:2], "d"),
                in_specs=(spec, whole, whole, spec),
                out_specs=spec,
                check_vma=False,
            )
        )
    else:
        options = {"axis_name": "d", "in_axes": (0, None, None, 0)}
        mapped = (
            jax.jit(jax.vmap(f, **options)) if mapping == "vmap" else jax.pmap(f, devices=jax.devices()[:2], **options)
        )
    y, mean, variance, dx, dscale, dbias = (np.asarray(a) for a in mapped(halves[0], scale, bias, halves[1]))
    found = y.reshape(x.shape), mean[0], variance[0], dx.reshape(x.shape), dscale.sum(0), dbias.sum(0)
    assert_close(found, norm_by_hand(x, scale, bias, cotangent, relu, epsilon=1e-3))
    np.testing.assert_array_equal(mean[0], mean[1])


def test_batch_norm_of_stacked_networks():
    arrays = norm_example()
    stacked = [np.stack([a, a[::-1], 2 * a]) for a in arrays]
    found = jax.jit(jax.vmap(norm_and_gradients("cpu", True)))(*stacked)
    for i in range(3):
        assert_close([a[i] for a in found], norm_by_hand(*(a[i] for a in stacked), True, epsilon=1e-3))


def test_batch_norm_in_bfloat16():
    arrays = norm_example(batch=64)
    x, scale, bias, cotangent = arrays
    low = x.astype(jnp.bfloat16), scale, bias, cotangent.astype(jnp.bfloat16)
    found = jax.jit(norm_and_gradients("cpu", True))(*low)
    assert [a.dtype for a in found] == [jnp.bfloat16, *[jnp.float32] * 2, jnp.bfloat16, *[jnp.float32] * 2]
    exact = norm_by_hand(*(a.astype(np.float64) for a in low), True, epsilon=1e-3)
    # Only images are rounded, once: statistics and sums are as exact as the float32 ones.
    rounding = float(jnp.finfo(jnp.bfloat16).eps)
    for a, e, tolerance in zip(found, exact, (rounding, 3e-6, 3e-6, rounding, 3e-6, 3e-6), strict=True):
        assert_close([a], [e], tolerance)


def test_statistics_carry_no_gradient():
    x, scale, bias, _ = norm_example()

    def of_statistics(x):
        return sum(jnp.sum(a) for a in cpu.batch_norm(x, scale, bias, epsilon=1e-3)[1:])

    np.testing.assert_array_equal(jax.grad(of_statistics)(x), 0)
