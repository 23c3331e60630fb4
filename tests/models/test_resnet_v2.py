import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada import models
from arada.models import ResNetV2


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes_of(model, image_shape):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))


def test_the_papers_network_has_the_published_size():
    variables = shapes_of(ResNetV2(num_classes=10), (32, 32, 3))
    assert variables.keys() == {"params", "batch_stats"}
    assert count(variables["params"]) == 843_786
    assert count(variables["batch_stats"]) == 5_216
    convolutions = [name for name in variables["params"] if name.startswith("Conv")]
    assert len(convolutions) == 31  # 28 and three projections


@pytest.mark.parametrize("depth", [2, 10, 12, 28, 30, -7])
def test_depth_is_9n_and_2(depth):
    with pytest.raises(ValueError, match="9n"):
        shapes_of(ResNetV2(num_classes=10, depth=depth), (8, 8, 1))


def test_build_by_name():
    assert models.build("resnet_v2", 10, depth=11, width=4) == ResNetV2(num_classes=10, depth=11, width=4)
    with pytest.raises(ValueError, match=r"model\.name"):
        models.build("resnet", 10)


@pytest.fixture(scope="module")
def tiny():
    """A network of depth 11 in JAX whose statistics, scales and biases are far from their start, and three images."""
    model = ResNetV2(num_classes=10, depth=11, width=4)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 32, 32, 3)).astype(np.float32)
    shapes = shapes_of(model, (32, 32, 3))

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)
        low, high = (0.5, 1.5) if kind in ("scale", "var") else (-0.5, 0.5)
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    return model, jax.tree_util.tree_map_with_path(draw, shapes), images


@pytest.fixture(scope="module")
def forward(tiny):
    """Images [3, 32, 32, 3] to logits and to the statistics after them, in use."""
    model, variables, _ = tiny
    return jax.jit(lambda images: model.apply(variables, images, mutable=["batch_stats"]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_logits_are_float32(dtype):
    model = ResNetV2(num_classes=7, depth=11, width=4, dtype=dtype)
    variables = shapes_of(model, (8, 8, 1))
    logits = jax.eval_shape(model.apply, variables, jnp.zeros((5, 8, 8, 1)))
    assert logits.shape == (5, 7)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_use_leaves_statistics_alone_and_examples_apart(tiny, forward):
    _, variables, images = tiny
    logits, updated = forward(images)
    for before, after in zip(
        jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(updated["batch_stats"]), strict=True
    ):
        np.testing.assert_array_equal(before, after)
    in_other_company, _ = forward(images[[1, 1, 1]])
    np.testing.assert_array_equal(in_other_company, np.repeat(logits[1:2], 3, axis=0))


def test_training_updates_every_statistic(tiny):
    model, variables, images = tiny
    model = model.clone(batch_norm="per_device")
    _, updated = jax.jit(lambda images: model.apply(variables, images, train=True, mutable=["batch_stats"]))(images)
    for before, after in zip(
        jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(updated["batch_stats"]), strict=True
    ):
        assert np.all(before != after)
    # The first batch norm sees the first convolution. Keras' momentum is 0.99.
    stem = variables["params"]["Conv_0"]
    seen = jax.lax.conv(images.transpose(0, 3, 1, 2), stem["kernel"].transpose(3, 2, 0, 1), (1, 1), "SAME")
    seen = np.asarray(seen, np.float64) + stem["bias"][:, None, None]
    before, after = (stats["batch_stats"]["BatchNorm_0"] for stats in (variables, updated))
    for name, moment in (("mean", seen.mean(axis=(0, 2, 3))), ("var", seen.var(axis=(0, 2, 3)))):
        np.testing.assert_allclose(after[name], 0.99 * before[name] + 0.01 * moment, rtol=1e-6)


@pytest.mark.peer
def test_logits_are_pytorchs(peer, tiny, forward):
    torch, peers = peer("torch"), peer("launch.benchmarks.peers")
    model, variables, images = tiny
    twin = peers.twin(model, variables)
    with torch.no_grad():
        expected = twin(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    assert np.ptp(expected, axis=0).min() > 0.1, "the images must not look alike to the network"
    np.testing.assert_allclose(forward(images)[0], expected, rtol=0, atol=1e-4)
