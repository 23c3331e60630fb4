import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada import attacks


def first_order_jitted(logits_fn, images, labels=None, **options):
    return jax.jit(lambda images: attacks.first_order(logits_fn, images, labels, **options))(images)


@pytest.mark.parametrize(("passes", "excess"), [(1, 0.25), (2, 0.01), (3, 0.001), (4, 0.0001)])
def test_estimate_of_an_affine_classifier_is_exact_and_the_distance_a_little_more(affine, passes, excess):
    result, estimate = first_order_jitted(affine.logits, affine.images, overshoot=0.25, passes=passes)
    np.testing.assert_allclose(estimate, affine.distances(), rtol=1e-4)
    assert estimate.dtype == np.float32
    np.testing.assert_allclose(result.distance, (1 + excess) * affine.distances(), rtol=1e-4)
    alone = jax.jit(functools.partial(attacks.first_order_estimate, affine.logits))(affine.images)
    np.testing.assert_allclose(alone, estimate, rtol=1e-6)


def test_attack_is_the_result_without_the_estimate(affine):
    options = {"candidates": 2, "overshoot": 0.1, "passes": 2}
    labels = np.argmax(affine.logits(affine.images), axis=-1)
    expected = first_order_jitted(affine.logits, affine.images, labels, **options).result
    found = jax.jit(lambda images: attacks.first_order_l2(affine.logits, images, labels, **options))(affine.images)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_candidates_find_a_boundary_nearer_than_the_runner_ups():
    # Class 1 wins at x_0 > 0.6, class 2, steeper and lower in logit, at x_1 > 0.55.
    def logits_fn(x):
        return jnp.stack([0 * x[:, 0], x[:, 0] - 0.6, 10 * x[:, 1] - 5.5], axis=-1)

    images = np.asarray([[0.5, 0.5], [0.58, 0.3]], np.float32)
    for candidates, expected in ((1, [0.1, 0.02]), (2, [0.05, 0.02]), (9, [0.05, 0.02])):
        result, estimate = first_order_jitted(logits_fn, images, candidates=candidates)
        np.testing.assert_allclose(estimate, expected, rtol=1e-4)
        np.testing.assert_allclose(result.distance, expected, rtol=4e-3)


def test_distance_is_on_either_side_of_the_estimate():
    # With t = x_0 - 0.3 the class changes where t + bend t^2 = 0.1; its linearisation says 0.1.
    bend = np.asarray([2, 0, -2, -3], np.float32)

    def logits_fn(x):
        moved = x[:, 0] - 0.3
        return jnp.stack([0.1 + 0 * moved, moved + bend * moved**2], axis=-1)

    result, estimate = first_order_jitted(logits_fn, np.full((4, 1), 0.3, np.float32), passes=8)
    np.testing.assert_allclose(estimate, 0.1, rtol=1e-4)
    roots = [(np.sqrt(1.8) - 1) / 4, 0.1, (1 - np.sqrt(0.2)) / 4, np.inf]
    np.testing.assert_allclose(result.distance, roots, rtol=2e-3)
    np.testing.assert_array_equal(result.success, [True, True, True, False])


def test_estimate_is_finite_where_the_attack_fails():
    # No gradient at all; a boundary that is beyond the box.
    slope = np.asarray([0, 1], np.float32)

    def logits_fn(x):
        return jnp.stack([2 + 0 * x[:, 0], slope * x[:, 0]], axis=-1)

    images = np.full((2, 1), 0.5, np.float32)
    result, estimate = first_order_jitted(logits_fn, images)
    assert estimate[0] > 1e9
    assert np.isfinite(estimate[0])
    np.testing.assert_allclose(estimate[1], 1.5, rtol=1e-5)
    np.testing.assert_array_equal(result.distance, np.inf)
    np.testing.assert_array_equal(result.adversarial, images)


def test_ray_has_a_direction_where_logits_are_equal():
    result, estimate = first_order_jitted(lambda x: x - 0.5, np.full((1, 2), 0.5, np.float32), passes=1)
    np.testing.assert_array_equal(estimate, 0)
    np.testing.assert_allclose(result.distance, [1.02e-3], rtol=1e-3)


def test_an_image_without_finite_logits_has_no_estimate_and_spoils_no_other():
    broken = jnp.arange(3)[:, None] == 1
    result, estimate = attacks.first_order(lambda x: jnp.where(broken, jnp.nan, x), np.float32([[0.6, 0.3]] * 3))
    assert np.isinf(estimate[1])
    assert np.isinf(result.distance[1])
    np.testing.assert_array_equal(attacks.undecided(np.asarray(estimate), np.asarray(result.distance), 3)[1], True)


def test_an_image_that_has_another_class_than_its_label_has_distance_0():
    result, estimate = attacks.first_order(lambda x: x, np.float32([[0.2, 0.8]]), np.asarray([0]))
    assert result.distance == estimate == 0
    assert result.success
