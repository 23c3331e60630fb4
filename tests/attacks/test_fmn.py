import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada import attacks


def norm(x):
    return np.linalg.norm(np.asarray(x, np.float64).reshape(len(x), -1), axis=-1)


def attack_jitted(logits_fn, images, labels=None, **options):
    return jax.jit(lambda images: attacks.fmn_l2(logits_fn, images, labels, **options))(images)


@pytest.fixture(scope="module")
def affine_result(affine):
    return attack_jitted(affine.logits, affine.images)


@pytest.fixture(scope="module")
def digits_attack(digits_logits):
    return jax.jit(lambda images: attacks.fmn_l2(digits_logits, images))


def test_distance_of_an_affine_classifier(affine, affine_result):
    assert np.all(affine_result.success)
    np.testing.assert_allclose(affine_result.distance, affine.distances(), rtol=1e-3)
    assert np.all(affine_result.distance > affine.distances() * (1 - 1e-5))


def test_ten_steps_are_enough_for_half_a_percent(affine):
    result = attack_jitted(affine.logits, affine.images, steps=10)
    np.testing.assert_allclose(result.distance, affine.distances(), rtol=5e-3)


def test_first_guess_oversteps_the_boundary(affine):
    result = attack_jitted(affine.logits, affine.images, steps=1, bisections=0, overshoot=0.03)
    np.testing.assert_allclose(result.distance, 1.03 * affine.distances(), rtol=1e-5)


def nearest_in_the_box(weights, bias, image):
    """The least |d| with weights (image + d) + bias = 0 and image + d in [0, 1]: d = clip(-scale * weights)."""
    margin = image @ weights + bias
    low, high = 0.0, 100.0
    for _ in range(60):
        scale = (low + high) / 2
        delta = np.clip(-np.sign(margin) * scale * weights, -image, 1 - image)
        low, high = (scale, high) if np.sign(margin + delta @ weights) == np.sign(margin) else (low, scale)
    return np.linalg.norm(delta)


def test_distance_where_the_box_binds():
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, 12).astype(np.float32)
    images = rng.choice([0, 0.2, 0.5, 0.8, 1], (16, 12)).astype(np.float32)

    def logits_fn(x):
        return jnp.stack([x @ weights - 0.3, jnp.zeros(len(x))], axis=-1)

    result = attack_jitted(logits_fn, images, steps=100)
    expected = [nearest_in_the_box(np.float64(weights), -0.3, np.float64(image)) for image in images]
    unbound = np.abs(images @ weights - 0.3) / np.linalg.norm(weights)
    assert np.median(expected / unbound) > 1.02
    np.testing.assert_allclose(result.distance, expected, rtol=1e-3)
    assert np.min(result.adversarial) >= 0
    assert np.max(result.adversarial) <= 1


def test_result_is_consistent(digits_attack, digits_logits, digits):
    result = digits_attack(digits.images)
    assert np.all(result.success)
    assert np.min(result.adversarial) >= 0
    assert np.max(result.adversarial) <= 1
    clean, attacked = (np.argmax(digits_logits(x), axis=-1) for x in (digits.images, result.adversarial))
    assert np.all(clean != attacked)
    np.testing.assert_allclose(result.distance, norm(result.adversarial - digits.images), rtol=1e-6)


def test_distances_agree_with_carlini_wagner(digits_attack, digits, carlini_wagner_on_digits):
    fmn, cw = digits_attack(digits.images).distance, carlini_wagner_on_digits.distance
    # One-sided: CW is late with the saturated pixels, which are half of a digit.
    assert np.max(fmn / cw) < 1.01
    assert attacks.agreement(fmn, cw, num_subsets=4)["spearman"] > 0.97


def test_constant_classifier_is_never_beaten(affine):
    result = attack_jitted(lambda x: jnp.tile(jnp.asarray([0.0, 1.0]), (len(x), 1)), affine.images)
    np.testing.assert_array_equal(result.distance, np.inf)
    np.testing.assert_array_equal(result.success, False)
    np.testing.assert_array_equal(result.adversarial, affine.images)


def test_boundary_beyond_the_box_is_a_failure(affine):
    result = attack_jitted(
        lambda x: jnp.stack([jnp.sum(x, axis=(1, 2, 3)) + 1, jnp.zeros(len(x))], axis=-1), affine.images
    )
    np.testing.assert_array_equal(result.distance, np.inf)
    np.testing.assert_array_equal(result.adversarial, affine.images)


def test_nan_is_not_a_class(affine):
    def logits_fn(images):
        near = jnp.max(jnp.abs(images - affine.images), axis=(1, 2, 3)) < 0.01
        # Class 1 on the image, so that class 0, where argmax finds a NaN, would be another.
        return jnp.where(near[:, None], affine.logits(images)[:, :2] * 1e-3 + jnp.asarray([0.0, 1.0]), jnp.nan)

    result = attack_jitted(logits_fn, affine.images)
    np.testing.assert_array_equal(result.success, False)
    np.testing.assert_array_equal(result.distance, np.inf)


def test_equal_logits_are_close_to_the_boundary(affine):
    weights = affine.weights
    result = attack_jitted(lambda x: jnp.reshape(x - affine.images, (len(x), -1)) @ weights, affine.images)
    assert np.all(result.success)
    assert np.max(result.distance) < 1e-3


def test_push_goes_on_where_the_gradient_misleads():
    # The margin falls steeply at first, and the guess, 0.12, stops far short of the boundary at 0.4.
    def logits_fn(x):
        moved = x[:, 0] - 0.5
        return jnp.stack([1.2 - jnp.tanh(10 * moved) - moved / 2, jnp.zeros(len(x))], axis=-1)

    images = np.asarray([[0.5]], np.float32)
    one_step = attack_jitted(logits_fn, images, steps=1)
    np.testing.assert_allclose(one_step.distance, [0.4], rtol=1e-2)
    guess_only = attack_jitted(logits_fn, images, steps=1, bisections=0)
    np.testing.assert_array_equal(guess_only.distance, np.inf)


def test_distances_do_not_depend_on_the_batch(digits_attack, digits):
    halves = [digits_attack(half).distance for half in np.split(digits.images, 2)]
    np.testing.assert_allclose(np.concatenate(halves), digits_attack(digits.images).distance, rtol=1e-5)


def test_misclassified_image_is_at_no_distance_from_its_label(affine):
    predicted = np.argmax(affine.logits(affine.images), axis=-1)
    result = attack_jitted(affine.logits, affine.images, (predicted + 1) % 4)
    np.testing.assert_array_equal(result.distance, 0)
    np.testing.assert_array_equal(result.success, True)


def test_labels_default_to_predictions(affine, affine_result):
    predicted = np.argmax(affine.logits(affine.images), axis=-1)
    result = attack_jitted(affine.logits, affine.images, predicted)
    np.testing.assert_allclose(result.distance, affine_result.distance, rtol=1e-5)


def test_new_variables_do_not_trace_again(affine):
    traces = []

    @jax.jit
    def attack(bias, images):
        def logits_fn(images):
            traces.append(images.shape)
            return affine._replace(bias=bias).logits(images)

        return attacks.fmn_l2(logits_fn, images)

    first = attack(affine.bias, affine.images)
    after_first = len(traces)
    second = attack(2 * affine.bias, affine.images)
    assert len(traces) == after_first
    assert np.any(first.distance != second.distance)
