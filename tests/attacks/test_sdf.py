import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada import attacks


def attack_jitted(logits_fn, images, **options):
    return jax.jit(lambda images: attacks.sdf_l2(logits_fn, images, **options))(images)


@pytest.mark.parametrize("rounds", [1, 3])
def test_one_step_crosses_an_affine_boundary_by_the_overshoot(affine, rounds):
    # A step is (1 + overshoot) (distance + 1e-4) long. Steps and rounds that are left over find the class flipped.
    result = attack_jitted(affine.logits, affine.images, rounds=rounds, steps=3, overshoot=0.05, passes=1)
    np.testing.assert_allclose(result.distance, 1.05 * (affine.distances() + 1e-4), rtol=1e-4)


def test_search_ends_at_the_affine_boundary(affine):
    result = attack_jitted(affine.logits, affine.images, rounds=1, steps=1, overshoot=0.25, passes=6)
    np.testing.assert_allclose(result.distance, affine.distances(), rtol=1e-4)
    assert np.all(result.distance > affine.distances() * (1 - 1e-5))


def test_boundary_is_crossed_without_overshoot(affine):
    result = attack_jitted(affine.logits, affine.images, rounds=1, steps=1, overshoot=0, passes=1)
    np.testing.assert_allclose(result.distance, affine.distances() + 1e-4, rtol=1e-4)


@pytest.mark.parametrize(("candidates", "expected"), [(1, [0.1, 0.02]), (2, [0.05, 0.02]), (9, [0.05, 0.02])])
def test_candidates_find_a_boundary_nearer_than_the_runner_ups(candidates, expected):
    # Class 1 wins at x_0 > 0.6, class 2, steeper and lower in logit, at x_1 > 0.55.
    def logits_fn(x):
        return jnp.stack([0 * x[:, 0], x[:, 0] - 0.6, 10 * x[:, 1] - 5.5], axis=-1)

    images = np.asarray([[0.5, 0.5], [0.58, 0.3]], np.float32)
    result = attack_jitted(logits_fn, images, candidates=candidates)
    np.testing.assert_allclose(result.distance, expected, rtol=4e-3)


def deepfool(images):
    """Plain DeepFool on `in_circle`'s margin (|y|^2 - 0.09) exp(y . BEND) with y = x - 0.5: its distances."""
    distances = []
    for image in np.float64(images):
        y = image - 0.5
        while y @ y <= 0.09:
            bend = np.exp(y @ BEND)
            gradient = bend * (2 * y + (y @ y - 0.09) * BEND)
            length = np.linalg.norm(gradient)
            y = y + 1.02 * ((0.09 - y @ y) * bend / length + 1e-4) * gradient / length
        distances.append(np.linalg.norm(y + 0.5 - image))
    return np.asarray(distances)


BEND = np.asarray([4.0, -3.0])


def in_circle(x):
    """Class 1 wins outside the circle of radius 0.3 about the middle; within, the margin is askew."""
    y = x - 0.5
    return jnp.stack([0 * y[:, 0], (jnp.sum(y**2, axis=-1) - 0.09) * jnp.exp(y @ jnp.asarray(BEND))], axis=-1)


def test_projections_find_the_nearest_point_of_a_circle_where_deepfool_does_not():
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    images = (0.5 + 0.15 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)).astype(np.float32)
    one, eight = (attack_jitted(in_circle, images, rounds=rounds, passes=8).distance for rounds in (1, 8))
    # Every image is 0.15 from the circle.
    deep_excess, one_excess, eight_excess = (np.asarray(found) / 0.15 - 1 for found in (deepfool(images), one, eight))
    assert np.median(deep_excess) > 0.15
    assert np.median(one_excess) < np.median(deep_excess) / 2
    assert np.max(eight_excess) < 0.02
    assert np.median(eight_excess) < 2e-3
    assert np.min(eight_excess) > -1e-5


def test_nearest_point_seen_is_kept():
    # Class 1 wins at x_0 > 0.6 but has no gradient from 0.601 on: the normal there, and with it the last ray, is 0.
    def logits_fn(x):
        return jnp.stack([0 * x[:, 0], jnp.minimum(x[:, 0], 0.601) - 0.6], axis=-1)

    result = attack_jitted(logits_fn, np.asarray([[0.5, 0.5]], np.float32))
    np.testing.assert_allclose(result.distance, [1.02 * (0.1 + 1e-4)], rtol=1e-4)
    np.testing.assert_array_equal(result.success, True)


def test_steps_go_on_until_the_class_flips():
    # The class changes where the square root of the pixel is 0.5; every tangent promises that too early.
    def logits_fn(x):
        return jnp.stack([0.5 + 0 * x[:, 0], jnp.sqrt(x[:, 0])], axis=-1)

    start = pixel = 0.04
    needed = 0
    while pixel**0.5 <= 0.5:
        pixel += 1.02 * ((0.5 - pixel**0.5) * 2 * pixel**0.5 + 1e-4)
        needed += 1
    assert needed == 3
    for rounds, steps in ((1, 3), (3, 1)):
        result = attack_jitted(logits_fn, np.full((1, 1), start, np.float32), rounds=rounds, steps=steps, passes=1)
        np.testing.assert_allclose(result.distance, [pixel - start], rtol=1e-4)


def test_last_ray_is_followed_where_the_steps_fall_short():
    # As above; one step ends at 0.1625, of which twice the way is beyond 0.25.
    def logits_fn(x):
        return jnp.stack([0.5 + 0 * x[:, 0], jnp.sqrt(x[:, 0])], axis=-1)

    result = attack_jitted(logits_fn, np.full((1, 1), 0.04, np.float32), rounds=1, steps=1, passes=8)
    np.testing.assert_allclose(result.distance, [0.21], rtol=1e-3)
