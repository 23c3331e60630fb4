"""Max pooling by slices, CUDA's way here, against the stock operation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada.models import pooling


def stock(x):
    return nn.max_pool(x, (3, 3), (2, 2), "SAME")


def of_slices(x):
    return pooling._of_slices(x, "SAME", 3, 2)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 7, 9, 2), (2, 1, 2, 1), (1, 16, 5, 1)])
def test_values_and_gradients_without_ties(shape):
    x = jnp.asarray(np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape), jnp.float32) - 10
    np.testing.assert_array_equal(of_slices(x), stock(x))
    ours, theirs = (jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(x) for f in (of_slices, stock))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_array_equal(pooling.max_pool(x), stock(x))


def test_a_tie_shares_its_gradient():
    gradient = jax.grad(lambda x: jnp.sum(of_slices(x)))(jnp.ones((1, 2, 2, 1)))
    assert float(gradient.sum()) == pytest.approx(1)


def test_cuda_has_neither_select_and_scatter_nor_scatter():
    def gradient(x):
        return jax.grad(lambda x: jnp.sum(pooling.max_pool(x)))(x)

    traced = jax.jit(gradient).trace(jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32))
    of_cuda, of_tpu = (traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cuda", "tpu"))
    assert "scatter" not in of_cuda
    assert "select_and_scatter" in of_tpu
