"""What every attack of `attacks.BY_NAME` promises, on one small network whose weights are an argument."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada import attacks


def norm(x):
    return np.linalg.norm(np.asarray(x, np.float64).reshape(len(x), -1), axis=-1)


class Bent(NamedTuple):
    """logits = y W + b + tanh(y U) V with y = x - centre; NaN where a pixel is further from centre than radius."""

    weights: np.ndarray  # [12, 4]
    bias: np.ndarray  # [10, 4]: each image has its own
    centre: np.ndarray  # [10, 12]
    inner: np.ndarray  # [12, 8]
    outer: np.ndarray  # [8, 4]
    radius: np.ndarray

    def logits(self, images):
        offset = jnp.reshape(images, (len(images), -1)) - self.centre
        logits = offset @ self.weights + self.bias + jnp.tanh(offset @ self.inner) @ self.outer
        near = jnp.max(jnp.abs(offset), axis=-1, keepdims=True) <= self.radius
        return jnp.where(near, logits, jnp.nan)


class Jitted:
    """One attack, compiled once with and once without labels for all the classifiers of this file."""

    def __init__(self, name):
        self.name = name
        self.traces = 0

        def attack(classifier, images, labels):
            def logits_fn(images):
                self.traces += 1
                return classifier.logits(images)

            return attacks.BY_NAME[name](logits_fn, images, labels)

        self.attack = jax.jit(attack)

    def __call__(self, classifier, images, labels=None):
        return self.attack(classifier, images, labels)


@pytest.fixture(scope="module", params=list(attacks.BY_NAME))
def attack(request):
    return Jitted(request.param)


@pytest.fixture(scope="module")
def straight(affine):
    """The affine classifier of conftest.py."""
    return Bent(
        affine.weights,
        np.tile(affine.bias, (10, 1)),
        np.zeros((10, 12), np.float32),
        np.zeros((12, 8), np.float32),
        np.zeros((8, 4), np.float32),
        np.float32(np.inf),
    )


@pytest.fixture(scope="module")
def bent(straight):
    rng = np.random.default_rng(1)
    inner, outer = (rng.normal(0, 1, shape).astype(np.float32) for shape in ((12, 8), (8, 4)))
    return straight._replace(centre=np.full((10, 12), 0.5, np.float32), inner=2 * inner, outer=outer)


def two_classes(straight, weights, bias):
    """Class 0 scores weights . x + bias against 0 of class 1; the others are out of reach."""
    columns = np.stack([weights, *np.zeros((3, 12))], axis=-1)
    bias = np.tile(np.asarray([bias, 0, -1e3, -1e3]), (10, 1))
    return straight._replace(weights=columns.astype(np.float32), bias=bias.astype(np.float32))


def test_distance_of_an_affine_classifier(attack, straight, affine):
    # Of the last two the third pass is the precision.
    tolerance = {"cw": 2e-3, "fmn": 1e-3, "sdf": 4e-3, "first_order": 4e-3}[attack.name]
    result = attack(straight, affine.images)
    assert np.all(result.success)
    np.testing.assert_allclose(result.distance, affine.distances(), rtol=tolerance)
    assert np.all(result.distance > affine.distances() * (1 - 1e-5))


def test_result_is_consistent(attack, bent, affine):
    # The last three images are so surely of class 2 that nothing in the box is of another.
    bias = bent.bias + 1e3 * np.outer(np.arange(10) >= 7, np.eye(4)[2]).astype(np.float32)
    classifier = bent._replace(bias=bias)
    result = attack(classifier, affine.images)
    assert [x.dtype for x in result] == [np.float32, np.float32, bool]
    assert [x.shape for x in result] == [affine.images.shape, (10,), (10,)]
    np.testing.assert_array_equal(result.success, np.arange(10) < 7)
    assert np.min(result.adversarial) >= 0
    assert np.max(result.adversarial) <= 1
    clean, attacked = (np.argmax(classifier.logits(x), axis=-1) for x in (affine.images, result.adversarial))
    np.testing.assert_array_equal(clean != attacked, result.success)
    np.testing.assert_allclose(result.distance[:7], norm(result.adversarial - affine.images)[:7], rtol=1e-6)
    np.testing.assert_array_equal(result.distance[7:], np.inf)
    np.testing.assert_array_equal(result.adversarial[7:], affine.images[7:])


def test_distances_do_not_depend_on_the_batch(attack, bent, affine):
    together = attack(bent, affine.images)
    for index in range(10):
        alone = attack(
            bent._replace(bias=np.tile(bent.bias[index], (10, 1))), np.tile(affine.images[index], (10, 1, 1, 1))
        )
        np.testing.assert_allclose(alone.distance, together.distance[index], rtol=1e-5)


def test_constant_classifier_is_never_beaten(attack, straight, affine):
    result = attack(straight._replace(weights=0 * straight.weights), affine.images)
    np.testing.assert_array_equal(result.distance, np.inf)
    np.testing.assert_array_equal(result.success, False)
    np.testing.assert_array_equal(result.adversarial, affine.images)


def test_boundary_beyond_the_box_is_a_failure(attack, straight, affine):
    result = attack(two_classes(straight, np.ones(12), 1), affine.images)
    np.testing.assert_array_equal(result.distance, np.inf)
    np.testing.assert_array_equal(result.success, False)
    np.testing.assert_array_equal(result.adversarial, affine.images)


def test_nan_is_not_a_class(attack, straight, affine):
    # Class 1 on the image, so that class 0, where argmax finds a NaN, would be another.
    flat = np.reshape(affine.images, (10, -1))
    classifier = straight._replace(
        weights=1e-3 * straight.weights,
        centre=flat,
        bias=np.tile(np.float32([0, 1, 0, 0]), (10, 1)),
        radius=np.float32(0.01),
    )
    result = attack(classifier, affine.images)
    np.testing.assert_array_equal(result.success, False)
    np.testing.assert_array_equal(result.distance, np.inf)
    np.testing.assert_array_equal(result.adversarial, affine.images)


def test_labels_default_to_predictions(attack, bent, affine):
    predicted = np.argmax(bent.logits(affine.images), axis=-1)
    assert len(np.unique(predicted)) > 1
    np.testing.assert_allclose(
        attack(bent, affine.images, predicted).distance, attack(bent, affine.images).distance, rtol=1e-5
    )


def test_equal_logits_are_close_to_the_boundary(attack, straight, affine):
    flat = np.reshape(affine.images, (10, -1))
    result = attack(straight._replace(centre=flat, bias=0 * straight.bias), affine.images)
    assert np.all(result.success)
    assert np.max(result.distance) < (2e-3 if attack.name == "cw" else 1e-5)


def test_misclassified_image_is_at_no_distance_from_its_label(attack, straight, affine):
    logits = np.asarray(straight.logits(affine.images))
    label = (np.argmax(logits, axis=-1) + 1) % 4
    result = attack(straight, affine.images, label)
    assert np.all(result.success)
    # CW: the tanh round trip.
    assert np.all(result.distance <= (1e-6 * np.sqrt(12) if attack.name == "cw" else 0))


def test_new_variables_do_not_trace_again(attack, straight, bent, affine):
    first = attack(straight, affine.images)
    after_first = attack.traces
    second = attack(bent, affine.images)
    assert attack.traces == after_first
    assert np.any(first.distance != second.distance)


def test_black_and_white_pixels_are_attacked_within_the_box(attack, straight):
    images = np.tile(np.float32([0, 1]), (10, 6))
    images[:, 2] = np.linspace(0.05, 0.5, 10)
    # The margin is 2 (0.6 - x_2): the other pixels, all of them black or white, have no say.
    result = attack(two_classes(straight, -2 * np.eye(12)[2], 1.2), np.reshape(images, (10, 2, 3, 2)))
    assert np.all(result.success)
    np.testing.assert_allclose(result.distance, 0.6 - images[:, 2], rtol=4e-3)
    moved = np.reshape(result.adversarial, (10, 12))
    np.testing.assert_allclose(np.delete(moved, 2, axis=1), np.delete(images, 2, axis=1), atol=1e-6)


def nearest_in_the_box(weights, bias, image):
    """The least |d| with weights (image + d) + bias = 0 and image + d in [0, 1]: d = clip(-scale * weights)."""
    margin = image @ weights + bias
    low, high = 0.0, 100.0
    for _ in range(60):
        scale = (low + high) / 2
        delta = np.clip(-np.sign(margin) * scale * weights, -image, 1 - image)
        low, high = (scale, high) if np.sign(margin + delta @ weights) == np.sign(margin) else (low, scale)
    return np.linalg.norm(delta)


def test_distance_where_the_box_binds(attack, straight):
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, 12).astype(np.float32)
    images = rng.choice([0, 0.2, 0.5, 0.8, 1], (10, 12)).astype(np.float32)
    result = attack(two_classes(straight, weights, -0.3), np.reshape(images, (10, 2, 3, 2)))
    expected = [nearest_in_the_box(np.float64(weights), -0.3, np.float64(image)) for image in images]
    unbound = np.abs(images @ weights - 0.3) / np.linalg.norm(weights)
    assert np.median(expected / unbound) > 1.02
    # CW is late with the black and white pixels.
    tolerance = {"cw": 0.4, "fmn": 5e-3, "sdf": 4e-3, "first_order": 4e-3}[attack.name]
    np.testing.assert_allclose(result.distance, expected, rtol=tolerance)
    assert np.all(result.distance > np.multiply(expected, 1 - 1e-5))
    assert np.min(result.adversarial) >= 0
    assert np.max(result.adversarial) <= 1


def test_bfloat16_logits_give_float32_distances(attack, affine):
    def logits_fn(images):
        return affine.logits(images).astype(jnp.bfloat16)

    result = jax.jit(lambda images: attacks.BY_NAME[attack.name](logits_fn, images))(affine.images)
    assert [x.dtype for x in result] == [np.float32, np.float32, bool]
    assert np.all(result.success)
    # Logits of 1 to 4 are multiples of 1/128 or 1/64, and a margin grows by 14 a unit of distance. The search on a ray
    # goes beyond by a hundredth.
    np.testing.assert_allclose(result.distance, affine.distances(), rtol=0.01, atol=6 / 64 / 14)


@pytest.mark.parametrize(
    ("name", "settings", "gradients"),
    [
        ("cw", {"binary_search_steps": 2, "max_iterations": 3}, 2 * 3),
        ("fmn", {"steps": 4}, 4),
        ("sdf", {"rounds": 2, "steps": 3}, 2 * (3 + 1)),
        ("sdf", {"rounds": 2, "steps": 3, "candidates": 2}, 2 * (3 * 2 + 1)),
        ("first_order", {}, 1),
        ("first_order", {"candidates": 3}, 3),
    ],
)
def test_gradients_are_as_many_as_documented(name, settings, gradients, affine):
    evaluated = []

    @jax.custom_vjp
    def counted(logits):
        return logits

    def backward(_, cotangent):
        # Once for each cotangent, where several are mapped.
        jax.debug.callback(lambda cotangent: evaluated.append(cotangent.shape), cotangent)
        return (cotangent,)

    counted.defvjp(lambda logits: (logits, None), backward)
    result = jax.jit(lambda images: attacks.BY_NAME[name](lambda x: counted(affine.logits(x)), images, **settings))(
        affine.images
    )
    jax.block_until_ready(result)
    jax.effects_barrier()
    assert evaluated == [(10, 4)] * gradients


@pytest.fixture(scope="module")
def on_digits(attack, digits_logits, digits, request):
    if attack.name == "cw":
        return request.getfixturevalue("carlini_wagner_on_digits")
    return jax.jit(lambda images: attacks.BY_NAME[attack.name](digits_logits, images))(digits.images)


def test_result_on_digits_is_consistent(on_digits, digits_logits, digits):
    assert np.all(on_digits.success)
    assert np.min(on_digits.adversarial) >= 0
    assert np.max(on_digits.adversarial) <= 1
    clean, attacked = (np.argmax(digits_logits(x), axis=-1) for x in (digits.images, on_digits.adversarial))
    assert np.all(clean != attacked)
    np.testing.assert_allclose(on_digits.distance, norm(on_digits.adversarial - digits.images), rtol=1e-6)


def test_distances_on_digits_agree_with_carlini_wagner(attack, on_digits, carlini_wagner_on_digits):
    distance, reference = on_digits.distance, carlini_wagner_on_digits.distance
    # One-sided: CW is late with the saturated pixels, which are half of a digit.
    assert np.max(distance / reference) < {"cw": 1.01, "fmn": 1.01, "sdf": 1.01, "first_order": 1.05}[attack.name]
    assert attacks.agreement(distance, reference, num_subsets=4)["spearman"] > 0.97
