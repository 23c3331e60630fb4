import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada import models
from arada.models import WideResNet
from launch.benchmarks.contestants import draw_variables


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes_of(model, image_shape):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))


@pytest.mark.parametrize(("num_classes", "size"), [(10, 36_479_194), (100, 36_536_884)])
def test_the_papers_network_has_the_published_size(num_classes, size):
    variables = shapes_of(WideResNet(num_classes), (32, 32, 3))
    assert variables.keys() == {"params", "batch_stats"}
    assert count(variables["params"]) == size
    assert count(variables["batch_stats"]) == 17_952
    convolutions = [name for name in variables["params"] if name.startswith("Conv")]
    assert len(convolutions) == 28  # the first, 24 in blocks and three projections
    assert all(variables["params"][name].keys() == {"kernel"} for name in convolutions)
    assert variables["params"]["Dense_0"].keys() == {"kernel", "bias"}


def test_a_block_that_changes_no_shape_has_no_projection():
    params = shapes_of(WideResNet(10, depth=10, width=1), (32, 32, 3))["params"]
    assert [layer["kernel"].shape[:2] for name, layer in params.items() if name.startswith("Conv")].count((1, 1)) == 2


@pytest.mark.parametrize("depth", [4, 9, 11, 29, -2])
def test_depth_is_6n_and_4(depth):
    with pytest.raises(ValueError, match="6n"):
        shapes_of(WideResNet(num_classes=10, depth=depth), (8, 8, 1))


def test_build_by_name():
    assert models.build("wide_resnet", 10, depth=10, width=2) == WideResNet(num_classes=10, depth=10, width=2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_logits_are_float32(dtype):
    model = WideResNet(num_classes=7, depth=10, width=1, dtype=dtype)
    variables = shapes_of(model, (8, 8, 1))
    logits = jax.eval_shape(model.apply, variables, jnp.zeros((5, 8, 8, 1)))
    assert (logits.shape, logits.dtype) == ((5, 7), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.fixture(scope="module")
def tiny():
    """A network of depth 10 with blocks with and without a projection, and three images."""
    model = WideResNet(num_classes=10, depth=10, width=1, batch_norm="per_device")
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    return model, draw_variables(model, images.shape[1:], seed=0), images


def test_training_updates_every_statistic(tiny):
    model, variables, images = tiny
    weights = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    _, updated = jax.jit(lambda images: model.apply(weights, images, train=True, mutable=["batch_stats"]))(images)
    for before, after in zip(
        jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(updated["batch_stats"]), strict=True
    ):
        assert np.all(before != after)
    # The first batch norm sees the bare first convolution. edward2's momentum is 0.9.
    kernel = variables["params"]["Conv_0"]["kernel"].transpose(3, 2, 0, 1)
    seen = np.asarray(jax.lax.conv(images.transpose(0, 3, 1, 2), kernel, (1, 1), "SAME"), np.float64)
    before, after = (stats["batch_stats"]["BatchNorm_0"] for stats in (variables, updated))
    for name, moment in (("mean", seen.mean(axis=(0, 2, 3))), ("var", seen.var(axis=(0, 2, 3)))):
        np.testing.assert_allclose(after[name], 0.9 * before[name] + 0.1 * moment, rtol=1e-5, atol=1e-6)


def test_initial_weights_are_he_normal():
    model = WideResNet(num_classes=10, depth=10, width=2)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    for name, layer in params.items():
        if "kernel" in layer:
            fan_in = np.prod(layer["kernel"].shape[:-1])
            # Truncated at two standard deviations of the normal that is cut.
            assert np.abs(layer["kernel"]).max() <= 2 * np.sqrt(2 / fan_in) / 0.87962566 + 1e-6, name
            if layer["kernel"].size > 1000:
                np.testing.assert_allclose(np.std(layer["kernel"]), np.sqrt(2 / fan_in), rtol=0.05, err_msg=name)
        else:
            assert np.all(layer["scale"] == 1), name
        assert np.all(layer.get("bias", 0) == 0), name


# At full size in test_full_size.py.
@pytest.mark.peer
@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize(("depth", "width", "smaller"), [(10, 1, 1), (10, 2, 1), (28, 1, 0.1)])
def test_logits_are_pytorchs(peer, tiny, depth, width, smaller):
    torch, peers = peer("torch"), peer("launch.benchmarks.peers")
    model, _, images = tiny
    model = model.clone(depth=depth, width=width)
    variables = draw_variables(model, images.shape[1:], seed=0)
    # Random statistics let 12 blocks grow to hundreds, where float32 has no 1e-4.
    variables["params"]["Dense_0"]["kernel"] *= smaller
    weights = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    logits = jax.jit(lambda images: model.apply(weights, images))(images)
    with torch.no_grad():
        expected = peers.twin(model, variables)(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    assert np.ptp(expected, axis=0).min() > 0.1, "the images must not look alike to the network"
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
