import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada import models
from arada.models import ResNetV1, resnet_v1
from launch.benchmarks.contestants import draw_variables


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes_of(model, image_shape):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *image_shape)))


def outputs_of(model, image_shape):
    """The shape and type of what each layer puts out, by its name, without running the network."""
    seen = {"capture_intermediates": True, "mutable": ["intermediates"]}
    variables = shapes_of(model, image_shape)
    _, collections = jax.eval_shape(lambda v, x: model.apply(v, x, **seen), variables, jnp.zeros((1, *image_shape)))
    return {name: of["__call__"][0] for name, of in collections["intermediates"].items() if name != "__call__"}


@pytest.mark.parametrize(
    ("depth", "size", "statistics", "convolutions"),
    [(50, 25_557_032, 53_120, 53), (101, 44_549_160, 105_344, 104), (152, 60_192_808, 151_424, 155)],
)
def test_networks_have_the_published_sizes(depth, size, statistics, convolutions):
    variables = shapes_of(ResNetV1(num_classes=1000, depth=depth), (224, 224, 3))
    params = variables["params"]
    assert variables.keys() == {"params", "batch_stats"}
    assert (count(params), count(variables["batch_stats"])) == (size, statistics)
    names = [name for name in params if name.startswith("Conv")]
    assert len(names) == convolutions == depth - 1 + 4  # all layers but the dense one, and four projections
    assert all(params[name].keys() == {"kernel"} for name in names)
    assert params["Dense_0"].keys() == {"kernel", "bias"}


@pytest.mark.parametrize("depth", [0, 18, 34, 49, 51])
def test_depths_without_a_published_network_are_refused(depth):
    with pytest.raises(ValueError, match=r"50, 101, 152"):
        shapes_of(ResNetV1(num_classes=10, depth=depth), (32, 32, 3))


def test_strides_sit_nowhere_else():
    with pytest.raises(ValueError, match="stride_on must be one of"):
        shapes_of(ResNetV1(num_classes=10, depth=50, stride_on="7x7"), (32, 32, 3))


def test_build_by_name():
    network = models.build("resnet_v1", 1000, depth=101, width=64, batch_norm="per_device")
    assert network == ResNetV1(num_classes=1000, batch_norm="per_device")
    assert network.stride_on == "3x3"
    assert models.build("resnet_v1", 10, depth=50, stride_on="1x1") == ResNetV1(10, depth=50, stride_on="1x1")


@pytest.mark.parametrize(("stride_on", "after_1x1"), [("3x3", (56, 28, 14)), ("1x1", (28, 14, 7))])
def test_where_the_strides_sit(stride_on, after_1x1):
    outputs = outputs_of(ResNetV1(num_classes=1000, depth=50, stride_on=stride_on), (224, 224, 3))
    shapes = {name: output.shape[1:] for name, output in outputs.items()}
    assert shapes["Conv_0"] == (112, 112, 64)
    # The pool halves the map, not the first group.
    assert [shapes[f"Conv_{index}"] for index in range(1, 5)] == [(56, 56, size) for size in (64, 64, 256, 256)]
    # The first blocks of the other groups, behind 3, 7 and 13 blocks of three convolutions and a projection a group.
    for group, first in enumerate((11, 24, 43)):
        size, features = 28 >> group, 128 << group
        assert shapes[f"Conv_{first}"] == (after_1x1[group],) * 2 + (features,)
        assert shapes[f"Conv_{first + 1}"] == (size, size, features)
        assert shapes[f"Conv_{first + 2}"] == shapes[f"Conv_{first + 3}"] == (size, size, 4 * features)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, "bfloat16"])
def test_dtype_is_that_of_activations_alone(dtype):
    model = ResNetV1(num_classes=7, depth=50, width=4, batch_norm="per_device", dtype=dtype)
    variables = shapes_of(model, (32, 32, 3))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    train = jax.eval_shape(
        lambda variables, x: model.apply(variables, x, train=True, mutable=["batch_stats"]),
        variables,
        jnp.zeros((5, 32, 32, 3)),
    )
    assert (train[0].shape, train[0].dtype) == ((5, 7), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(train[1])} == {jnp.dtype("float32")}
    outputs = outputs_of(model, (32, 32, 3))
    assert outputs.pop("Dense_0").dtype == jnp.float32
    assert {output.dtype for output in outputs.values()} == {jnp.dtype(dtype)}


def test_initial_weights_are_the_scripts(monkeypatch):
    # Compiling 53 random kernels takes half a minute; one block has every kind.
    monkeypatch.setitem(resnet_v1.BLOCKS, 50, (1,))
    model = ResNetV1(num_classes=1000, depth=50, width=16)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    dense = params.pop("Dense_0")
    np.testing.assert_allclose(np.std(dense["kernel"]), 0.01, rtol=0.02)
    # A normal that is not truncated.
    assert np.abs(dense["kernel"]).max() > 0.03
    assert np.all(dense["bias"] == 0)
    for name, layer in params.items():
        if "kernel" in layer:
            fan_in = np.prod(layer["kernel"].shape[:-1])
            # Truncated at two standard deviations of the normal that is cut.
            assert np.abs(layer["kernel"]).max() <= 2 * np.sqrt(2 / fan_in) / 0.87962566 + 1e-6, name
            if layer["kernel"].size > 1000:
                np.testing.assert_allclose(np.std(layer["kernel"]), np.sqrt(2 / fan_in), rtol=0.08, err_msg=name)
        else:
            assert np.all(layer["scale"] == 1), name
            assert np.all(layer["bias"] == 0), name


def narrow(depth, smaller):
    """A network of width 4 and three images.

    Random statistics let blocks grow to thousands and more, where float32 has no 1e-4: the dense kernel is `smaller`.
    """
    model = ResNetV1(num_classes=10, depth=depth, width=4, batch_norm="per_device")
    images = np.random.default_rng(0).normal(size=(3, 64, 64, 3)).astype(np.float32)
    variables = draw_variables(model, images.shape[1:], seed=0)
    variables["params"]["Dense_0"]["kernel"] *= smaller
    return model, {"params": variables["params"], "batch_stats": variables["batch_stats"]}, images


@pytest.fixture(scope="module")
def tiny():
    return narrow(depth=50, smaller=0.01)


def test_training_updates_every_statistic(tiny):
    model, variables, images = tiny
    _, updated = jax.jit(lambda images: model.apply(variables, images, train=True, mutable=["batch_stats"]))(images)
    for before, after in zip(
        jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(updated["batch_stats"]), strict=True
    ):
        assert np.all(before != after)
    # The first batch norm sees the bare stem, padded by 3 on all sides. The script's momentum is 0.9.
    kernel = variables["params"]["Conv_0"]["kernel"].transpose(3, 2, 0, 1)
    padded = np.pad(images.transpose(0, 3, 1, 2), ((0, 0), (0, 0), (3, 3), (3, 3)))
    seen = np.asarray(jax.lax.conv(padded, kernel, (2, 2), "VALID"), np.float64)
    before, after = (stats["batch_stats"]["BatchNorm_0"] for stats in (variables, updated))
    for name, moment in (("mean", seen.mean(axis=(0, 2, 3))), ("var", seen.var(axis=(0, 2, 3)))):
        np.testing.assert_allclose(after[name], 0.9 * before[name] + 0.1 * moment, rtol=1e-5, atol=1e-6)


# At full size in test_full_size.py.
@pytest.mark.peer
@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.parametrize(("depth", "smaller", "stride_on"), [(50, 0.01, "3x3"), (50, 0.01, "1x1"), (101, 1e-4, "3x3")])
def test_logits_are_pytorchs(peer, depth, smaller, stride_on):
    torch, peers = peer("torch"), peer("launch.benchmarks.peers")
    model, variables, images = narrow(depth, smaller)
    model = model.clone(stride_on=stride_on)
    logits = jax.jit(lambda images: model.apply(variables, images))(images)
    with torch.no_grad():
        expected = peers.twin(model, variables)(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    assert np.ptp(expected, axis=0).min() > 0.1, "the images must not look alike to the network"
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
