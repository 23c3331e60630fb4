"""oneDNN's kernels against lax in float64, where they are used, and where they are not."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import assert_close, assert_gradients_are_exact, cotangent_of, example, stock, value_and_gradients
from jax import export, lax

from arada.models import WideResNet, cpu
from arada.runtime import backend, kernels
from arada.training.replication import Replicas
from configs import base


@pytest.fixture(autouse=True)
def _onednn():
    """Skips where it is not to be had. No program is kept, for jaxlib fails when it writes one with oneDNN."""
    if kernels.choose(base.config(), jax.devices()[:1]) == "stock":
        pytest.skip("oneDNN cannot be used on this machine")
    with backend.keeping_no_programs():
        yield


def by_onednn(f):
    return jax.jit(cpu.kernels("onednn")(f))


def assert_exact(actual, x, kernel, strides):
    """(y, dx, dkernel) are lax's in float64, to 3e-6 of the largest value."""
    cotangent = np.float64(cotangent_of(actual[0]))
    with jax.enable_x64(True):
        y, backward = jax.vjp(lambda x, kernel: stock(x, kernel, strides), np.float64(x), np.float64(kernel))
        assert_close(actual, [y, *backward(jnp.asarray(cotangent))])


def calls(f, *arrays):
    """How often f asks for a convolution and for a product by oneDNN, on a CPU."""
    program = by_onednn(f).lower(*arrays).as_text()
    return program.count("__onednn$convolution"), program.count("__onednn$matmul")


@pytest.mark.parametrize(
    ("kernel", "stride", "size", "batch", "channels", "features", "expected"),
    [
        pytest.param(3, 1, 16, 4, 3, 16, (2, 1), id="3x3-even-3"),
        pytest.param(3, 1, 17, 3, 16, 64, (2, 1), id="3x3-odd-16"),
        pytest.param(3, 1, 8, 8, 128, 128, (2, 1), id="3x3-128"),
        pytest.param(3, 2, 16, 4, 16, 64, (5, 9), id="3x3-halves-16"),
        pytest.param(3, 2, 32, 2, 64, 16, (5, 9), id="3x3-halves-64"),
        pytest.param(3, 2, 17, 3, 16, 3, (1, 0), id="3x3-odd-halves"),
        pytest.param(5, 1, 11, 5, 3, 8, (2, 1), id="5x5"),
        pytest.param(7, 2, 32, 2, 3, 16, (1, 0), id="7x7-halves"),
        pytest.param(1, 1, 16, 4, 64, 16, (0, 1), id="1x1-64"),
        pytest.param(1, 2, 17, 3, 16, 128, (0, 1), id="1x1-halves-odd-16"),
        pytest.param(1, 1, 8, 2, 128, 3, (0, 1), id="1x1-few-pixels"),
        # Few pixels: only the kernel gradient is worth it.
        pytest.param(3, 1, 8, 2, 16, 16, (0, 1), id="3x3-few-pixels"),
        pytest.param(3, 1, 2, 2, 16, 16, (0, 1), id="3x3-larger-than-map"),
    ],
)
def test_values_and_gradients(kernel, stride, size, batch, channels, features, expected):
    x, weights = example(kernel, size, batch, channels, features)
    f = value_and_gradients(cpu.convolution, (stride, stride))
    assert calls(f, x, weights) == expected
    assert_exact(by_onednn(f)(x, weights), x, weights, (stride, stride))


@pytest.mark.parametrize("pads", ["VALID", ((1, 1), (1, 1)), ((2, 0), (0, 1))])
def test_other_paddings(pads):
    x, weights = example(3, 16, 4, 8, 8)
    ours = by_onednn(lambda x, weights: cpu.convolution(x, weights, (2, 2), pads))(x, weights)
    assert_close([ours], [stock(np.float64(x), np.float64(weights), (2, 2), pads)])


@pytest.mark.parametrize("batch", [130, 67])
def test_kernel_gradient_in_several_turns(batch):
    x, weights = example(3, 16, batch, 4, 4)
    assert_exact(by_onednn(value_and_gradients(cpu.convolution, (1, 1)))(x, weights), x, weights, (1, 1))


def test_inside_a_loop_and_under_vmap():
    """Members that are stacked, and attacks."""
    x, weights = (np.stack([a, -2 * a, 3 * a]) for a in example(3, 16, 4, 8, 8))
    f = value_and_gradients(cpu.convolution, (1, 1))
    for at_once in (jax.vmap(f), lambda *pairs: lax.map(lambda pair: f(*pair), pairs)):
        found = by_onednn(at_once)(x, weights)
        for i in range(3):
            assert_exact([a[i] for a in found], x[i], weights[i], (1, 1))


@pytest.mark.parametrize("mapping", ["pmap", "shard_map"])
def test_on_two_devices_at_once(mapping):
    x, weights = example(3, 16, 8, 8, 8)
    f = value_and_gradients(cpu.convolution, (1, 1))
    mapped = Replicas(jax.devices()[:2], mapping, "onednn").map(
        lambda x, weights: f(x, weights)[:2], in_axes=(0, None), out_axes=0
    )
    assert "__onednn" in mapped.lower(x, weights).as_text()
    for _ in range(10):
        y, dx = (np.asarray(a).reshape(x.shape) for a in mapped(x, weights))
    for half in (slice(0, 4), slice(4, 8)):
        expected = by_onednn(f)(x[half], weights)[:2]
        assert_close([y[half], dx[half]], expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_other_types_go_the_stock_way(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        x, weights = (jnp.asarray(a, dtype) for a in example(3, 16, 4, 8, 8))

        def f(x, weights):
            y, backward = jax.vjp(cpu.convolution, x, weights)
            return y, *backward(y)

        assert calls(f, x, weights) == (0, 0)
        ours, theirs = by_onednn(f)(x, weights), jax.jit(lambda *arrays: f(*arrays))(x, weights)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_gradient_has_the_kernels_of_its_convolution():
    x, weights = example(3, 16, 4, 8, 8)

    def f(x, weights, outside):
        with cpu.kernels("onednn"):
            _, backward = jax.vjp(cpu.convolution, x, weights)
        return jax.vjp(cpu.convolution, x, weights)[1](x) if outside else backward(x)

    count = [jax.jit(f, static_argnums=2).lower(x, weights, outside).as_text().count("__onednn") for outside in (0, 1)]
    assert count == [2, 0]


def test_forward_mode_is_refused():
    x, weights = example(3, 16, 4, 8, 8)
    with pytest.raises(TypeError, match="custom_vjp"), cpu.kernels("onednn"):
        jax.jvp(cpu.convolution, (x, weights), (x, weights))


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_get_the_stock_convolution(platform):
    f = value_and_gradients(cpu.convolution, (1, 1))
    arrays = example(3, 16, 4, 8, 8)
    program = export.export(by_onednn(f), platforms=[platform])(*arrays).mlir_module()
    assert "__onednn" not in program
    assert program.count("stablehlo.convolution") == 3


def test_a_program_with_it_cannot_be_exported():
    arrays = example(3, 16, 4, 8, 8)
    with pytest.raises(ValueError, match="custom calls"):
        export.export(by_onednn(cpu.convolution), platforms=["cpu"])(*arrays)
    assert "__onednn" not in export.export(jax.jit(cpu.convolution), platforms=["cpu"])(*arrays).mlir_module()


@pytest.mark.parametrize("name", cpu.KERNELS)
def test_a_mapped_program_with_it_is_not_kept(recwarn, name):
    """jaxlib fails when it writes such a program into the persistent cache, and might abort."""
    x, weights = example(3, 16, 4, 8, 8)
    factor = np.float32(np.random.default_rng().random())

    def new_program(x):
        return cpu.convolution(x, factor * weights)

    mapped = Replicas(jax.devices()[:1], "shard_map", name).map(new_program, in_axes=(0,), out_axes=0)
    field, folder = "jax_persistent_cache_min_compile_time_secs", pathlib.Path(jax.config.jax_compilation_cache_dir)
    before, unset = set(folder.glob("*new_program*")), getattr(jax.config, field)
    jax.config.update(field, 0)
    try:
        mapped(x)
        assert getattr(jax.config, field) == 0
    finally:
        jax.config.update(field, unset)
    assert bool(set(folder.glob("*new_program*")) - before) == (name == "stock")
    assert not [warning for warning in recwarn if "compilation cache" in str(warning.message)]


def test_gradients_of_a_network_are_those_of_stock_operations_in_float64(monkeypatch):
    assert_gradients_are_exact(monkeypatch, WideResNet(3, depth=10, width=1), 32, "onednn")
