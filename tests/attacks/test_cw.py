import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arada import attacks
from arada.attacks.result import checked


def attack_jitted(logits_fn, images, labels=None, **options):
    return jax.jit(lambda images: attacks.cw_l2(logits_fn, images, labels, **options))(images)


class TanhNet:
    """logits = scale * (tanh(x A + a) B + b), with its input gradient by hand."""

    def __init__(self, seed, inputs=6, hidden=8, classes=4):
        rng = np.random.default_rng(seed)
        self.first, self.first_bias = rng.normal(0, 1.5, (inputs, hidden)), rng.normal(0, 0.5, hidden)
        self.second, self.second_bias = rng.normal(0, 1, (hidden, classes)), rng.normal(0, 0.2, classes)

    def logits(self, images, scale, xp=np):
        return scale * (xp.tanh(images @ self.first + self.first_bias) @ self.second + self.second_bias)

    def gradient(self, image, scale, cotangent):
        slope = 1 - np.tanh(image @ self.first + self.first_bias) ** 2
        return scale * self.first @ (slope * (self.second @ cotangent))


def reference_attack(
    net, scale, image, label, *, binary_search_steps, max_iterations, learning_rate, confidence=0.0, abort_early=False
):
    """The attack on one image in float64, in plain loops that follow cleverhans 3.1 line by line.

    Returns the distance, the constants tried and the iterations run for each.
    """
    start = np.arctanh((2 * image - 1) * 0.999999)
    origin = (np.tanh(start) + 1) / 2
    lower, upper, const = 0.0, 1e10, 0.01
    best, best_image, constants, ran = 1e10, None, [], []
    for _ in range(binary_search_steps):
        modifier, first, second = (np.zeros_like(image) for _ in range(3))
        previous, success = 1e6, False
        constants.append(const)
        for iteration in range(max_iterations):
            candidate = (np.tanh(start + modifier) + 1) / 2
            logits = net.logits(candidate, scale)
            others = np.where(np.arange(len(logits)) == label, -10000, logits)
            hinge = logits[label] - others.max() + confidence
            squared = np.sum((candidate - origin) ** 2)
            loss = squared + const * max(hinge, 0)
            if abort_early and iteration % (max_iterations // 10) == 0:
                if loss > 0.9999 * previous:
                    break
                previous = loss
            raised = logits.copy()
            raised[label] += confidence
            if raised.argmax() != label:
                success = True
                if squared < best:
                    best, best_image = squared, candidate
            cotangent = np.zeros_like(logits)
            if hinge > 0:
                cotangent[label] += const
                cotangent[others.argmax()] -= const
            by_candidate = net.gradient(candidate, scale, cotangent) + 2 * (candidate - origin)
            gradient = by_candidate * (1 - np.tanh(start + modifier) ** 2) / 2
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            step = iteration + 1
            modifier = modifier - learning_rate * (first / (1 - 0.9**step)) / (
                np.sqrt(second / (1 - 0.999**step)) + 1e-8
            )
        else:
            iteration = max_iterations
        ran.append(iteration)
        if success:
            upper = min(upper, const)
        else:
            lower = max(lower, const)
        const = (lower + upper) / 2 if upper < 1e9 else const * 10
    distance = np.inf if best_image is None else np.linalg.norm(best_image - image)
    return distance, tuple(np.round(constants, 6)), ran


@functools.cache
def reference_cases(**options):
    """Six images at seven scales of the logits, from too weak for any constant to strong enough for the least."""
    net = TanhNet(seed=0)
    images = np.random.default_rng(1).uniform(0.2, 0.8, (6, 6)).astype(np.float32)
    cases = list(itertools.product([0.2, 0.5, 1, 2, 5, 15, 60], images))
    scales, images = np.asarray([scale for scale, _ in cases]), np.asarray([image for _, image in cases])
    labels = net.logits(images, scales[:, None]).argmax(axis=-1)
    references = [
        reference_attack(net, scale, np.float64(image), label, **options)
        for scale, image, label in zip(scales, images, labels, strict=True)
    ]
    distances, constants, iterations = zip(*references, strict=True)
    result = attack_jitted(
        lambda x: net.logits(x, jnp.asarray(scales, jnp.float32)[:, None], xp=jnp), images, **options
    )
    return result, np.asarray(distances), set(constants), np.asarray(iterations)


SHORT = {"binary_search_steps": 3, "max_iterations": 100, "learning_rate": 0.02}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"confidence": 1.0},
        {"binary_search_steps": 5},
        {"abort_early": True},
        # So coarse that some examples abort at a point that would have been their best.
        {"abort_early": True, "max_iterations": 30, "learning_rate": 0.05},
    ],
    ids=str,
)
def test_distances_are_those_of_the_reference(options):
    result, expected, _, _ = reference_cases(**SHORT | options)
    # The reference is float64; 1e-5 of a distance is a thousandth of what another constant changes.
    np.testing.assert_allclose(result.distance, expected, rtol=3e-5)


def test_reference_takes_every_way_through_the_constants():
    result, _, constants, _ = reference_cases(**SHORT)
    assert constants == {(0.01, 0.1, 1.0), (0.01, 0.1, 0.055), (0.01, 0.005, 0.0075), (0.01, 0.005, 0.0025)}
    assert 0 < np.sum(~np.asarray(result.success)) < len(result.success)


def test_abort_early_is_each_examples_own():
    result, _, _, iterations = reference_cases(**SHORT, abort_early=True)
    assert len(np.unique(iterations)) > 5
    assert np.any(iterations == SHORT["max_iterations"])
    unaborted, _, _, _ = reference_cases(**SHORT)
    found = np.asarray(result.success)
    assert np.all(result.distance[found] >= unaborted.distance[found])
    assert np.any(result.distance[found] > 1.001 * unaborted.distance[found])


@pytest.fixture(scope="module")
def affine_result(affine):
    return attack_jitted(affine.logits, affine.images)


def test_candidates_are_rechecked(affine, affine_result):
    label = jnp.argmax(affine.logits(affine.images), axis=-1)
    candidates = np.where(
        np.arange(len(label))[:, None, None, None] < 3, affine_result.adversarial, affine.images + 0.001
    )
    result = checked(affine.logits, affine.images, candidates, label)
    np.testing.assert_array_equal(result.success, np.arange(len(label)) < 3)
    np.testing.assert_array_equal(result.adversarial[3:], affine.images[3:])
    np.testing.assert_array_equal(np.isinf(result.distance), np.arange(len(label)) >= 3)


def test_distances_do_not_depend_on_the_batch(digits_logits, digits):
    attack = jax.jit(
        lambda images: attacks.cw_l2(digits_logits, images, max_iterations=50, learning_rate=0.05, abort_early=True)
    )
    whole = attack(digits.images)
    halves = [attack(half).distance for half in np.split(digits.images, 2)]
    assert np.any(whole.success)
    np.testing.assert_allclose(np.concatenate(halves), whole.distance, rtol=1e-5)


def test_confidence_is_the_margin_reached(affine):
    result = attack_jitted(affine.logits, affine.images, confidence=0.5)
    top = np.sort(affine.logits(result.adversarial), axis=-1)
    np.testing.assert_allclose(top[:, -1] - top[:, -2], 0.5, rtol=5e-3)
