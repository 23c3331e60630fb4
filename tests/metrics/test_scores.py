"""Accuracy, NLL, Brier score and means by subset, by hand; masks, jit and order for all metrics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from arada import metrics

MASKED = {
    "accuracy": metrics.accuracy,
    "nll": metrics.negative_log_likelihood,
    "brier": metrics.brier_score,
    "ece": metrics.expected_calibration_error,
    "ece_quantile": functools.partial(metrics.expected_calibration_error, num_bins=4, binning="quantile"),
    "classwise": metrics.classwise_calibration_error,
    "classwise_quantile": functools.partial(metrics.classwise_calibration_error, num_bins=4, binning="quantile"),
}
COUNT, CLASSES = 12, 3
LABELS = npst.arrays(np.int32, COUNT, elements=st.integers(0, CLASSES - 1))
LOGITS = npst.arrays(np.float32, (COUNT, CLASSES), elements=st.floats(-10, 10, width=32))
# Few counts, for every new shape compiles.
MASKS = st.sampled_from([1, 7, COUNT]).flatmap(lambda kept: st.permutations([index < kept for index in range(COUNT)]))


def softmax(logits):
    return np.asarray(jax.nn.softmax(logits))


def test_nll_by_hand():
    probabilities = np.asarray([[0.5, 0.5], [0.25, 0.75]])
    value = metrics.negative_log_likelihood(probabilities, np.asarray([1, 0]))
    assert value == pytest.approx((np.log(2) + np.log(4)) / 2, rel=1e-6)


def test_nll_is_floored_at_probability_0():
    value = metrics.negative_log_likelihood(np.asarray([[1.0, 0.0]]), np.asarray([1]))
    assert value == pytest.approx(-np.log(np.finfo(np.float32).tiny), rel=1e-6)  # 87.3, not inf


def test_brier_by_hand():
    probabilities = np.asarray([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])
    # 0.09 + 0.04 + 0.01 and the worst possible, 1 + 1
    assert metrics.brier_score(probabilities, np.asarray([0, 2])) == pytest.approx((0.14 + 2) / 2, rel=1e-6)


def test_accuracy_by_hand():
    assert metrics.accuracy(np.asarray([[0.7, 0.3], [0.6, 0.4], [0.1, 0.9]]), np.asarray([0, 1, 1])) == np.float32(
        2 / 3
    )


@pytest.mark.parametrize("name", MASKED)
@settings(max_examples=15)
@given(logits=LOGITS, labels=LABELS, mask=MASKS, padding=st.sampled_from([0.0, 0.5, np.nan]))
def test_mask_equals_dropping(name, logits, labels, mask, padding):
    probabilities, mask = softmax(logits), np.asarray(mask)
    dropped = MASKED[name](probabilities[mask], labels[mask])
    padded = np.where(mask[:, None], probabilities, padding), np.where(mask, labels, -1)
    np.testing.assert_allclose(MASKED[name](*padded, mask), dropped, rtol=2e-6, atol=5e-7)


@pytest.mark.parametrize("name", MASKED)
def test_empty_mask_is_nan(name):
    assert np.isnan(MASKED[name](np.eye(3), np.arange(3), np.zeros(3, bool)))


@pytest.mark.parametrize("name", MASKED)
def test_jit_changes_nothing(name):
    rng = np.random.default_rng(1)
    probabilities, labels = softmax(rng.normal(0, 3, (40, 5))), rng.integers(0, 5, 40)
    mask = rng.random(40) < 0.7
    expected = MASKED[name](probabilities, labels, mask)
    np.testing.assert_allclose(jax.jit(MASKED[name])(probabilities, labels, mask), expected, rtol=1e-6)
    np.testing.assert_allclose(MASKED[name](*map(jnp.asarray, (probabilities, labels, mask))), expected, rtol=1e-6)


@pytest.mark.parametrize("name", MASKED)
@given(logits=LOGITS, labels=LABELS, order=st.permutations(range(COUNT)))
def test_order_of_examples_does_not_matter(name, logits, labels, order):
    probabilities = softmax(logits)
    expected = MASKED[name](probabilities, labels)
    np.testing.assert_allclose(MASKED[name](probabilities[order], labels[order]), expected, rtol=2e-6, atol=5e-7)


def test_subset_means_by_hand():
    means = metrics.subset_means(np.asarray([1.0, 2.0, 6.0, 4.0]), np.asarray([2, 0, 2, 0]), num_subsets=4)
    np.testing.assert_array_equal(means, [3, np.nan, 3.5, np.nan])
