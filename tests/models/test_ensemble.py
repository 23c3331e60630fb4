import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada import models
from arada.models.ensemble import over_members

EPS = float(np.finfo(np.float32).eps)


class Small(nn.Module):
    """A convolution, a batch norm and a dense layer."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x)))
        return nn.Dense(3)(jnp.mean(x, axis=(1, 2)))


@pytest.fixture(scope="module")
def members():
    """The variables of three members, each drawn by a seed of its own."""
    shapes = jax.eval_shape(Small().init, jax.random.key(0), np.zeros((1, 5, 5, 2)))
    normalization = {"mean": np.full(2, 0.5, np.float32), "scale": np.full(2, 0.25, np.float32)}

    def draw(seed):
        rng = np.random.default_rng(seed)
        drawn = jax.tree.map(lambda leaf: rng.uniform(0.2, 1, leaf.shape).astype(np.float32), shapes)
        return drawn | {"normalization": normalization}

    return [draw(seed) for seed in range(3)]


@pytest.mark.parametrize("unrolled", [True, False])
def test_each_member_has_the_logits_it_has_alone(members, unrolled):
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 2)).astype(np.uint8)
    stacked = jax.tree.map(lambda *x: np.stack(x), *members) | {"normalization": members[0]["normalization"]}
    logits = jax.jit(models.member_logits_fn(Small(), 3, unrolled=unrolled))(stacked, images)
    alone = [models.logits_fn(Small())(variables, images) for variables in members]
    np.testing.assert_allclose(logits, np.stack(alone), rtol=8 * EPS)
    assert np.abs(logits[0] - logits[1]).min() > 0.01


@pytest.mark.parametrize("unrolled", [True, False])
def test_axes_are_those_of_vmap(unrolled):
    def f(shared, pair):
        return {"sum": shared + pair["a"] + pair["b"], "shared": 2 * shared}

    axes = (None, {"a": 0, "b": 1}), {"sum": 1, "shared": None}
    pair = {"a": np.array([10, 20]), "b": np.array([[1, 2], [3, 4], [5, 6]])}
    found = over_members(f, *axes, members=2, unrolled=unrolled)(np.array([100, 200, 300]), pair)
    np.testing.assert_array_equal(found["sum"], [[111, 122], [213, 224], [315, 326]])
    np.testing.assert_array_equal(found["shared"], [200, 400, 600])


def test_members_are_unrolled_on_a_cpu():
    # A stacked kernel is a grouped convolution there, twenty times as slow.
    program = jax.make_jaxpr(over_members(lambda x: x @ x, (0,), 0, members=3))(np.zeros((3, 2, 2)))
    assert str(program).count("dot_general") == 3


def test_the_mean_prediction_by_hand():
    # Probabilities 0.9, 0.1 and 0.5, 0.5: 0.7, 0.3. A logit of 200 must not overflow.
    logits = np.log(np.array([[[0.9, 0.1]], [[0.5, 0.5]]], np.float32)) + np.array([200, -3], np.float32)[:, None, None]
    np.testing.assert_allclose(models.mean_prediction(logits), np.log([[0.7, 0.3]]), rtol=1e-4)
    np.testing.assert_allclose(models.mean_prediction(logits[1:]), np.log([[0.5, 0.5]]), rtol=1e-6)


def test_no_two_ensembles_share_a_seed():
    assert [list(models.member_seeds(seed, 3)) for seed in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert list(models.member_seeds(5, 1)) == [5]
