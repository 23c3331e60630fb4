import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada.attacks.linear import nearest_boundary
from arada.attacks.ray import FURTHER_PASSES, nearest_on_ray
from arada.attacks.result import margin


def boundary(logits_fn, points, label, candidates):
    return jax.jit(lambda points, label: nearest_boundary(logits_fn, points, label, candidates))(points, label)


def ray(logits_fn, images, delta, label, passes):
    at_image = margin(logits_fn(images), label)
    return jax.jit(lambda *arrays: nearest_on_ray(logits_fn, *arrays, passes))(images, delta, label, at_image)


@pytest.fixture(scope="module")
def uneven():
    """An affine classifier of five classes, whose weights are of very unequal norms, and forty points."""
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(6, 5)) * [1, 8, 0.5, 3, 0.2]).astype(np.float32)
    bias = rng.normal(0, 2, 5).astype(np.float32)
    points = rng.uniform(0, 1, (40, 2, 3)).astype(np.float32)
    return weights, bias, points


def closed_form(weights, bias, point, label, candidates):
    """The nearest of the hyperplanes between `label` and the best others: distance, unit normal, which best it is."""
    weights, bias = np.float64(weights), np.float64(bias)
    logits = point.reshape(-1) @ weights + bias
    others = sorted((k for k in range(len(bias)) if k != label), key=lambda k: -logits[k])[:candidates]
    slopes = [weights[:, k] - weights[:, label] for k in others]
    distances = [abs(logits[k] - logits[label]) / np.linalg.norm(w) for k, w in zip(others, slopes, strict=True)]
    nearest = int(np.argmin(distances))
    normal = slopes[nearest] / np.linalg.norm(slopes[nearest])
    return distances[nearest], normal.reshape(point.shape), nearest


@pytest.mark.parametrize("candidates", [1, 2, 4, 7])
def test_nearest_boundary_of_an_affine_classifier(uneven, candidates):
    weights, bias, points = uneven

    def logits_fn(x):
        return jnp.reshape(x, (len(x), -1)) @ weights + bias

    clean = points.reshape(40, -1) @ weights + bias
    # The second half is beyond its boundary, for it has the label of another class than it is in.
    label = (np.argmax(clean, axis=-1) + (np.arange(40) >= 20)) % 5
    logits, distance, normal = boundary(logits_fn, points, label, candidates)
    expected, normals, ranks = zip(
        *(closed_form(weights, bias, *one, candidates) for one in zip(points, label, strict=True)), strict=True
    )
    np.testing.assert_allclose(logits, clean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(distance, expected, rtol=1e-4)
    np.testing.assert_allclose(normal, normals, atol=1e-5)
    assert distance.dtype == normal.dtype == np.float32
    # The nearest is not the runner-up alone.
    assert len(set(ranks)) == min(candidates, 3)


def test_normal_points_to_the_other_class_on_both_sides():
    # z_1 - z_0 = 2 x_0 - 1: the boundary is at x_0 = 0.5.
    def logits_fn(x):
        return jnp.stack([1 - 2 * x[:, 0], 0 * x[:, 0]], axis=-1)

    points = np.asarray([[0.2, 0.3], [0.9, 0.3], [0.5, 0.7]], np.float32)
    for label, sign in ((0, 1), (1, -1)):
        _, distance, normal = boundary(logits_fn, points, np.full(3, label), 1)
        np.testing.assert_allclose(distance, [0.3, 0.4, 0], atol=1e-6)
        np.testing.assert_allclose(normal, [[sign, 0]] * 3, atol=1e-6)


@pytest.mark.parametrize("rise", [0.0, 1.0], ids=["equal logits", "distinct logits"])
def test_nearest_boundary_is_finite_where_the_gradient_is_zero(rise):
    points = np.full((2, 3), 0.5, np.float32)

    def logits_fn(x):
        return jnp.asarray([rise, 0.0]) + 0 * x[:, :2]

    logits, distance, normal = boundary(logits_fn, points, np.zeros(2, int), 1)
    assert np.all(np.isfinite(logits))
    assert np.all(np.isfinite(distance))
    np.testing.assert_array_equal(normal, 0)
    # Out of reach of any step, or reached already.
    assert np.all(distance > 1e9) if rise else np.all(distance == 0)


def test_class_without_gradient_is_not_the_nearest():
    # Class 1 is close by its logit but never rises; class 2 is 0.25 away.
    def logits_fn(x):
        return jnp.stack([0 * x[:, 0], 0 * x[:, 0] - 0.01, 4 * x[:, 0] - 2], axis=-1)

    _, distance, normal = boundary(logits_fn, np.asarray([[0.25, 0.5]], np.float32), np.zeros(1, int), 2)
    np.testing.assert_allclose(distance, [0.25], rtol=1e-6)
    np.testing.assert_allclose(normal, [[1, 0]], atol=1e-6)


# From inside the ray of length 0.1 to beyond the box.
THRESHOLDS = np.asarray([0.0061, 0.013, 0.0701, 0.0997, 0.13, 0.27, 0.53, 0.97, 1.5], np.float32)


@pytest.mark.parametrize(("passes", "excess"), [(2, 0.01), (3, 0.001), (4, 0.0001)])
def test_ray_ends_a_little_beyond_where_a_straight_margin_changes_its_sign(passes, excess):
    def logits_fn(x):
        return jnp.stack([jnp.asarray(THRESHOLDS), x[:, 0]], axis=-1)

    found = ray(logits_fn, np.zeros((9, 2), np.float32), np.float32([[0.1, 0]] * 9), np.zeros(9, int), passes)
    np.testing.assert_array_equal(found[:, 1], 0)
    np.testing.assert_array_equal(found[:, 0] > THRESHOLDS, THRESHOLDS < 1)
    # The others had to be lengthened first, so that fewer passes were left.
    for those, largest in ((THRESHOLDS < 0.1, excess), (THRESHOLDS < 1, 0.1)):
        assert np.all(found[those, 0] <= THRESHOLDS[those] * (1 + largest + 1e-5))


def bisected(logits_fn, images, delta, label, halvings):
    """The nearest point on a ray that changes the class: up to eight doublings of its length, then halvings."""

    def flips(scale):
        return np.argmax(logits_fn(np.float32(np.clip(images + scale[:, None] * delta, 0, 1))), axis=-1) != label

    inner, outer = np.zeros(len(images)), np.ones(len(images))
    for _ in range(8):
        flipped = flips(outer)
        inner, outer = np.where(flipped, inner, outer), np.where(flipped, outer, 2 * outer)
    for _ in range(halvings):
        middle = (inner + outer) / 2
        flipped = flips(middle)
        inner, outer = np.where(flipped, inner, middle), np.where(flipped, middle, outer)
    return np.where(flips(outer), outer, np.inf)


def test_ray_agrees_with_bisection_on_a_smooth_network():
    rng = np.random.default_rng(0)
    hidden, out = rng.normal(0, 1.5, (12, 24)), rng.normal(0, 1, (24, 5))

    @jax.jit
    def logits_fn(x):
        return jnp.tanh((x - 0.5) @ hidden) @ out

    images = rng.uniform(0.1, 0.9, (400, 12)).astype(np.float32)
    label = np.argmax(logits_fn(images), axis=-1)
    _, distance, normal = boundary(logits_fn, images, label, 1)
    delta = np.asarray(distance)[:, None] * np.asarray(normal)
    # Some rays are far too short, some far too long, some lead away from the boundary, perhaps to no other class.
    too_long = rng.choice([0.2, 1, 1.02, 5], 400)
    delta *= too_long[:, None]
    delta[::9] *= -1
    found = np.asarray(ray(logits_fn, images, delta, label, 3))
    expected = bisected(logits_fn, images, delta, label, 20)
    success = np.argmax(logits_fn(found), axis=-1) != label
    reversed_ = np.arange(400) % 9 == 0
    assert 0.2 < np.mean(np.isinf(expected[reversed_])) < 0.8
    np.testing.assert_array_equal(success[~reversed_], np.isfinite(expected)[~reversed_])
    # Where the margin rises and falls, either may step over a stretch of another class that the other meets.
    assert np.mean(success[reversed_] == np.isfinite(expected[reversed_])) > 0.7
    both = success & np.isfinite(expected)
    length = np.linalg.norm(found - images, axis=-1)
    reference = np.linalg.norm(np.clip(images + expected[:, None] * delta, 0, 1) - images, axis=-1)
    ratio = length[both] / reference[both]
    assert np.quantile(ratio, 0.9) < 1.2
    as_of_an_attack = (too_long == 1.02)[both]
    assert np.min(ratio[as_of_an_attack]) > 1 - 1e-4
    assert np.quantile(ratio[as_of_an_attack], 0.5) < 1.003
    assert np.quantile(ratio[as_of_an_attack], 0.9) < 1.05


def test_ray_is_clipped_to_the_box():
    # Both pixels rise together until the first is white; the class changes where they sum to 1.6, 1.9 and never.
    images = np.tile(np.float32([0.7, 0.2]), (3, 1))
    threshold = jnp.asarray([1.6, 1.9, 2.1])

    def logits_fn(x):
        return jnp.stack([threshold, jnp.sum(x, axis=-1)], axis=-1)

    found = ray(logits_fn, images, np.full((3, 2), 0.1, np.float32), np.zeros(3, int), 12)
    np.testing.assert_allclose(found, [[1, 0.6], [1, 0.9], [1, 1]], atol=1e-3)
    assert np.max(found) <= 1


def test_ray_within_another_class_leads_to_the_image():
    found = ray(lambda x: x, np.float32([[0.6, 0.4]]), np.float32([[0, -0.128]]), np.ones(1, int), 7)
    np.testing.assert_allclose(found, [[0.6, 0.4]], atol=1e-6)


def test_nan_on_the_ray_is_not_another_class():
    # Beyond 0.3 the first logit, which argmax would name, is NaN.
    images = np.zeros((1, 1), np.float32)

    def logits_fn(x):
        return jnp.concatenate([jnp.where(x > 0.3, jnp.nan, 0), 1 + 0 * x], axis=-1)

    found = ray(logits_fn, images, np.float32([[0.1]]), np.ones(1, int), 4)
    np.testing.assert_array_equal(found, [[1]])


@pytest.mark.parametrize(("reached", "cost"), [(0.32, 3), (0.55, 3), (1.5, 3 + FURTHER_PASSES)])
def test_forward_passes_are_as_many_as_documented(reached, cost):
    shapes = []

    def logits_fn(x):
        shapes.append(x.shape)
        return jnp.stack([x[:, 0], reached + 0 * x[:, 0]], axis=-1)

    images, label = np.full((2, 1), 0.3, np.float32), np.ones(2, int)
    with jax.disable_jit():
        nearest_on_ray(logits_fn, images, np.float32([[0.1]] * 2), label, jnp.full(2, reached - 0.3), 3)
    assert shapes == [(2, 1)] * cost


def test_an_example_that_has_changed_its_class_waits_for_the_others():
    def logits_fn(x):
        return jnp.stack([x[:, 0], jnp.asarray([0.33, 1.5])[: len(x)]], axis=-1)

    images, delta, label = np.full((2, 1), 0.3, np.float32), np.float32([[0.1]] * 2), np.ones(2, int)
    alone, together = (ray(logits_fn, images[:n], delta[:n], label[:n], 3)[0] for n in (1, 2))
    np.testing.assert_array_equal(alone, together)
