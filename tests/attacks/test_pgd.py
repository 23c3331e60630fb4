import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from arada import attacks

RADIUS = 0.05
# The start of a batch is a function of its key: one key for each of the three kinds.
KEYS = range(12)


@functools.partial(jax.jit, static_argnames="steps")
def linear_pgd(weights, images, key, steps, example_id=None):
    """Two classes, whose logits differ by a weighted sum of pixels; the label is 0."""

    def logits_fn(x):
        return jnp.stack([jnp.zeros(len(x)), x @ weights], axis=-1)

    labels = np.zeros(len(images), np.int32)
    ball = {"epsilon": RADIUS, "step_size": 0.05, "steps": steps}
    return attacks.pgd_linf(logits_fn, images, labels, key, **ball, example_id=example_id)


def started(key, size=64, count=200, example_id=None):
    """What is added to grey images at the start."""
    images = np.full((count, size), 0.5, np.float32)
    return (
        np.asarray(linear_pgd(np.ones(size, np.float32), images, jax.random.key(key), 0, example_id).adversarial) - 0.5
    )


@pytest.fixture(scope="module")
def of_kind():
    """A key whose start is normal noise, one of random directions, and one that is none."""
    keys = {}
    for key in KEYS:
        added = started(key)
        largest = np.abs(added).max(axis=-1)
        kind = "none" if not added.any() else "normal" if largest.std() < 0.1 * RADIUS else "direction"
        keys.setdefault(kind, key)
    assert len(keys) == 3
    return keys


def test_three_kinds_of_start(of_kind):
    normal, direction = (started(of_kind[kind]) for kind in ("normal", "direction"))
    # The deviation is that of CCAT's code, for 64 pixels.
    assert normal.std() == pytest.approx(RADIUS / (2 * np.log(64)), rel=0.02)
    lengths = np.abs(direction).max(axis=-1) / RADIUS
    # Uniform between 0 and 1.
    assert np.abs(np.quantile(lengths, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.1


@pytest.mark.parametrize("kind", ["normal", "direction"])
def test_noise_belongs_to_the_id(of_kind, kind):
    ids = np.array([7, 3, 900, 4], np.int32)
    noise, moved = (started(of_kind[kind], count=4, example_id=of) for of in (ids, ids[::-1]))
    np.testing.assert_array_equal(moved, noise[::-1])
    assert len(np.unique(noise)) > 200


def test_a_linear_model_by_hand(of_kind):
    """Momentum gathers signs that are all the same: m = 1 - 0.9^t, and steps add up until ball or box ends them."""
    weights = np.float32([1.0, -2.0, 0.5, -0.1])
    images = np.float32([[0.5, 0.5, 0.99, 0.001], [0.2, 0.8, 0.5, 0.3]])
    for steps, moved in ((1, 0.005), (2, 0.005 + 0.0095), (8, RADIUS)):
        found = linear_pgd(weights, images, jax.random.key(of_kind["none"]), steps)
        expected = np.clip(images + moved * np.sign(weights), 0, 1)
        np.testing.assert_allclose(found.adversarial, expected, rtol=0, atol=2e-7)


def test_a_step_too_far_is_not_taken(of_kind):
    """A hill of one pixel's logit with its top at 0.52, climbed from 0.5, against a loop in NumPy."""

    def objective(x):
        return scipy.special.expit(-1e3 * (x - 0.52) ** 2)

    x, velocity, rate, taken = 0.5, 0.0, 0.3, []
    for _ in range(12):
        velocity = 0.9 * velocity + 0.1 * np.sign(0.52 - x)
        proposed = np.clip(x + rate * velocity, 0.5 - RADIUS, 0.5 + RADIUS)
        taken.append(objective(proposed) >= objective(x))
        x, rate = (proposed, rate) if taken[-1] else (x, rate / 1.5)
    assert taken[:3] == [True, True, False]
    assert any(taken[3:])

    def logits_fn(images):
        return jnp.stack([jnp.zeros(1), -1e3 * (images[:, 0] - 0.52) ** 2], axis=-1)

    images, key = np.float32([[0.5, 0.5]]), jax.random.key(of_kind["none"])
    found = attacks.pgd_linf(logits_fn, images, np.array([0]), key, epsilon=RADIUS, step_size=0.3, steps=12)
    np.testing.assert_allclose(found.adversarial, [[x, 0.5]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["normal", "direction", "none"])
def test_within_ball_and_box_and_never_worse_than_the_start(of_kind, digits, digits_logits, kind):
    labels = np.argmax(digits_logits(digits.images), axis=-1)

    @functools.partial(jax.jit, static_argnums=1)
    def attack(key, steps):
        return attacks.pgd_linf(digits_logits, digits.images, labels, key, epsilon=RADIUS, step_size=0.1, steps=steps)

    def wrong(images):
        probabilities = scipy.special.softmax(np.asarray(digits_logits(images), np.float64), axis=-1)
        return np.where(np.eye(10, dtype=bool)[labels], 0, probabilities).max(axis=-1)

    key = jax.random.key(of_kind[kind])
    start, found = attack(key, 0), attack(key, 10)
    for result in (start, found):
        assert np.abs(result.adversarial - digits.images).max() <= RADIUS + 6e-8
        assert result.adversarial.min() >= 0
        assert result.adversarial.max() <= 1
    gain = wrong(found.adversarial) - wrong(start.adversarial)
    assert gain.min() >= 0
    assert np.median(gain / wrong(start.adversarial)) > 1
    # Success is the model's word, and a distance without it infinite.
    changed = np.argmax(digits_logits(found.adversarial), axis=-1) != labels
    assert 0 < changed.sum() < len(labels)
    np.testing.assert_array_equal(found.success, changed)
    distance = np.abs(found.adversarial - digits.images).max(axis=(1, 2, 3))
    np.testing.assert_array_equal(found.distance, np.where(changed, distance, np.inf))


def test_the_model_s_own_predictions_are_the_labels_if_none_are_given(affine):
    settings = {"epsilon": RADIUS, "step_size": 0.1, "steps": 2}

    def logits_fn(images):
        return jnp.roll(affine.logits(images), 2, axis=-1)

    predicted = np.argmax(logits_fn(affine.images), axis=-1)
    assert np.all(predicted == 2)
    of_both = [
        attacks.pgd_linf(logits_fn, affine.images, labels, jax.random.key(0), **settings)
        for labels in (None, predicted)
    ]
    jax.tree.map(np.testing.assert_array_equal, *of_both)


def test_a_ball_of_radius_0_leaves_images_alone(affine):
    # Those outside the box too.
    images = 4 * affine.images - 1.5
    settings = {"epsilon": 0.0, "step_size": 0.1, "steps": 2}
    found = jax.jit(lambda images, key: attacks.pgd_linf(affine.logits, images, None, key, **settings))(
        images, jax.random.key(1)
    )
    np.testing.assert_array_equal(found.adversarial, images)
    assert images.max() > 1
