import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada.attacks import check_images, classifier_warnings


def test_healthy_classifiers_give_no_warning(affine, digits_logits, digits):
    assert classifier_warnings(affine.logits, affine.images) == []
    assert classifier_warnings(digits_logits, digits.images) == []


def test_constant_logit_of_one_class_is_healthy(affine):
    assert classifier_warnings(lambda x: affine.logits(x) - affine.logits(x)[:, :1], affine.images) == []


@pytest.mark.parametrize("value", [-0.01, 1.01, 255, np.nan, np.inf])
def test_images_outside_the_range_raise(value, affine):
    images = affine.images.copy()
    images[3, 0, 1, 0] = value
    with pytest.raises(ValueError, match=r"images in \[0, 1\]"):
        check_images(images)
    with pytest.raises(ValueError, match=r"images in \[0, 1\]"):
        classifier_warnings(affine.logits, images)


def test_the_ends_of_the_range_are_images():
    check_images(np.asarray([0.0, 1.0]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_raise(value, affine):
    with pytest.raises(ValueError, match="returns NaN or infinity; check"):
        classifier_warnings(lambda x: affine.logits(x).at[2, 1].set(value), affine.images)


def test_probabilities_are_noticed(affine):
    found = classifier_warnings(lambda x: jax.nn.softmax(affine.logits(x)), affine.images)
    assert len(found) == 1
    assert "probabilities" in found[0]


def test_constant_output_is_noticed(affine):
    found = classifier_warnings(lambda x: jnp.tile(jnp.asarray([2.0, 3.0]), (len(x), 1)), affine.images)
    assert len(found) == 2
    assert "same output" in found[0]
    assert "exactly zero on 10 of 10" in found[1]


def test_stochastic_output_is_noticed(affine):
    calls = itertools.count()
    found = classifier_warnings(lambda x: affine.logits(x) * (1 + 0.01 * next(calls)), affine.images)
    assert len(found) == 1
    assert "differs from call to call" in found[0]


def test_vanished_gradients_are_counted(affine):
    def logits_fn(x):
        saturated = jnp.arange(len(x))[:, None] < 3
        return jnp.where(saturated, jnp.round(affine.logits(x)), affine.logits(x))

    found = classifier_warnings(logits_fn, affine.images)
    assert len(found) == 1
    assert "exactly zero on 3 of 10" in found[0]


def test_gradients_that_are_not_finite_are_counted(affine):
    images = affine.images.copy()
    images[4] = 0.5

    def standardised(x):
        centred = x - jnp.mean(x, axis=(1, 2, 3), keepdims=True)
        deviation = jnp.sqrt(jnp.mean(jnp.square(centred), axis=(1, 2, 3), keepdims=True))
        return affine.logits(centred / jnp.maximum(deviation, 1e-3))

    found = classifier_warnings(standardised, images)
    assert len(found) == 1
    assert "not finite on 1 of 10" in found[0]
