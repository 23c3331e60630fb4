import re

import flax.linen as nn
import jax
import numpy as np
import pytest

from arada import models


class Pixels(nn.Module):
    """Logits that are the first pixel's channels, plus a statistic, so that what the network sees can be read off."""

    @nn.compact
    def __call__(self, x, train=False):
        seen = self.variable("batch_stats", "seen", np.zeros, 3)
        if train:
            seen.value = seen.value + 1
        return self.param("weight", nn.initializers.ones, (3,)) * x[:, 0, 0] + seen.value


VARIABLES = {
    "params": {"weight": np.array([1, 2, 4], np.float32)},
    "batch_stats": {"seen": np.array([0, 0, 10], np.float32)},
    "normalization": {"mean": np.array([0.2, 0.4, 0.6], np.float32), "scale": np.array([0.5, 0.25, 2], np.float32)},
}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_normalisation_is_inside_the_logits_function(dtype):
    images = np.array([51, 102, 255], np.uint8).reshape(1, 1, 1, 3)
    if dtype is not np.uint8:
        images = (images / 255).astype(dtype)
    logits = jax.jit(models.logits_fn(Pixels()))(VARIABLES, images)
    # (0.2, 0.4, 1) less the mean (0.2, 0.4, 0.6), over the scale, times the weights, plus the statistics.
    np.testing.assert_allclose(logits, [[0, 0, 4 * 0.4 / 2 + 10]], rtol=1e-6, atol=1e-6)
    assert logits.dtype == np.float32


def test_normalisation_by_a_mean_image():
    images = np.full((2, 1, 1, 3), 255, np.uint8)
    normalization = {"mean": np.array([0, 0.5, 1], np.float32).reshape(1, 1, 3), "scale": np.ones(1, np.float32)}
    np.testing.assert_array_equal(models.normalize(normalization, images)[:, 0, 0], [[1, 0.5, 0]] * 2)


@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_bytes_are_255ths(value):
    assert models.unit_range(np.array(value, np.uint8)) == np.float32(value) / np.float32(255)


def test_floats_stay_as_they_are():
    images = np.array([-0.5, 0.25, 1.5], np.float32)
    np.testing.assert_array_equal(models.unit_range(images), images)


@pytest.mark.parametrize(("name", "depth"), [("resnet_v1", 50), ("resnet_v2", 11), ("wide_resnet", 10)])
def test_a_network_is_built_with_the_arithmetic_that_a_config_names(name, depth):
    built = {dtype: models.build(name, 7, depth=depth, width=2, dtype=dtype) for dtype in models.DTYPES}
    assert {dtype: str(model.dtype) for dtype, model in built.items()} == {dtype: dtype for dtype in models.DTYPES}
    assert models.build(name, 7, depth=depth).dtype == np.float32
    with pytest.raises(ValueError, match=r"model\.dtype must be one of .*, not 'float16'"):
        models.build(name, 7, dtype="float16")


@pytest.mark.parametrize(("name", "depth"), [("resnet_v1", 50), ("resnet_v2", 11), ("wide_resnet", 10)])
def test_averages_over_pixels_are_not_rounded_to_bfloat16(name, depth):
    model, images = models.build(name, 7, depth=depth, width=2, dtype="bfloat16"), np.zeros((3, 64, 64, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    text = str(jax.make_jaxpr(model.apply)(variables, images))
    assert "bf16[3,64,64," in text or "bf16[3,32,32," in text
    assert re.search(r"f32\[3,\d+\]", text)
    assert not re.search(r"bf16\[3,\d+\]", text)


@pytest.mark.parametrize("name", ["resnet_v1", "resnet_v2", "wide_resnet"])
def test_our_own_networks_pass_the_check_of_others(name):
    depth = {"resnet_v1": 50, "resnet_v2": 11, "wide_resnet": 10}[name]
    network = models.build(name, 7, depth=depth, width=2, batch_norm="global")
    models.check_network(network, (32, 32, 3), 7)
    with pytest.raises(ValueError, match=r"it returns \[2, 7\] for 2 images; logits of 6 classes are \[2, 6\]"):
        models.check_network(network, (32, 32, 3), 6)
