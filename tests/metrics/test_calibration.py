"""Calibration errors by bins and by kernels, and reliability, by hand and by loops."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from arada import metrics

COUNT, CLASSES = 12, 3
LABELS = npst.arrays(np.int32, COUNT, elements=st.integers(0, CLASSES - 1))
LOGITS = npst.arrays(np.float32, (COUNT, CLASSES), elements=st.floats(-10, 10, width=32))


def softmax(logits):
    return np.asarray(jax.nn.softmax(logits))


def predictions(confidence, correct, num_classes=10):
    """Probabilities and labels with the given confidences and outcomes; class 0 is always predicted."""
    confidence = np.asarray(confidence, np.float32)
    probabilities = np.repeat((1 - confidence[:, None]) / (num_classes - 1), num_classes, axis=1)
    probabilities[:, 0] = confidence
    return probabilities, np.where(np.broadcast_to(correct, confidence.shape), 0, 1)


def ece(confidence, correct, **options):
    return float(metrics.expected_calibration_error(*predictions(confidence, correct), **options))


def test_ece_by_hand():
    # Bins of width 0.2: {0.5, 0.55}, {0.7}, {0.9, 0.95, 0.85}; their sums of confidence minus outcome:
    # 1.05 - 1 = 0.05, 0.7 - 0 = 0.7, 2.7 - 3 = -0.3.
    value = ece([0.5, 0.9, 0.7, 0.55, 0.95, 0.85], [True, True, False, False, True, True], num_bins=5)
    assert value == pytest.approx((0.05 + 0.7 + 0.3) / 6, abs=1e-6)


def test_ece_counts_probability_0_and_1():
    probabilities = np.asarray([[1, 0], [1, 0], [0, 1], [0, 1]])
    assert metrics.expected_calibration_error(probabilities, np.asarray([0, 1, 1, 1])) == 0.25
    # p_0 is 1, 1, 0, 0 and y_0 is 1, 0, 0, 0: 1/4 for class 0, and by symmetry for class 1.
    assert metrics.classwise_calibration_error(probabilities, np.asarray([0, 1, 1, 1])) == 0.25
    # p_0 = 0 on an example of class 0 alone in the lowest bin, p_1 = 1 alone in the highest.
    assert metrics.classwise_calibration_error(np.asarray([[0, 1]]), np.asarray([0])) == 1


def test_ece_bins_contain_their_lower_edge():
    # Width 0.25: 0.5 goes up to 0.6, 0.75 does not go down to it: |1.1 - 1| + |0.75 - 1|.
    assert ece([0.5, 0.6, 0.75], [False, True, True], num_bins=4) == pytest.approx((0.1 + 0.25) / 3, abs=1e-6)


@pytest.mark.parametrize("num_bins", [10, 15])
def test_every_edge_opens_its_bin(num_bins):
    lower = np.arange((num_bins + 1) // 2, num_bins + 1)  # from 1/2 on: class 0 must have the greatest probability
    count, *_ = metrics.reliability(*predictions(lower / num_bins, True), num_bins=num_bins)
    # The last bin is closed: 1 shares it.
    np.testing.assert_array_equal(count, np.bincount(np.minimum(lower, num_bins - 1), minlength=num_bins))


def test_ece_by_quantiles_by_hand():
    # Five examples, two bins: ranks 0, 1, 2 and 3, 4. {0.5, 0.6, 0.7}: 1.8 - 2; {0.8, 0.9}: 1.7 - 1.
    confidence, correct = [0.9, 0.5, 0.8, 0.7, 0.6], [True, True, False, False, True]
    assert ece(confidence, correct, num_bins=2, binning="quantile") == pytest.approx((0.2 + 0.7) / 5, abs=1e-6)
    # Equal widths: {0.5, ..., 0.9} in the upper half, 3.5 - 3.
    assert ece(confidence, correct, num_bins=2) == pytest.approx(0.5 / 5, abs=1e-6)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_equal_confidences_share_their_accuracy_among_bins_of_equal_mass(order):
    # 900 of 1,000 right at a confidence of 0.9: every bin is calibrated, whichever rows it takes.
    correct = np.arange(1000) < 900
    if order == "shuffled":
        correct = np.random.default_rng(0).permutation(correct)
    assert ece(np.full(1000, 0.9), correct, binning="quantile") == pytest.approx(0, abs=1e-6)
    count, _, accuracy = metrics.reliability(*predictions(np.full(1000, 0.9), correct), binning="quantile")
    assert set(count) == {66, 67}
    np.testing.assert_allclose(accuracy, 0.9, rtol=1e-6)


def test_a_tie_across_an_edge_by_hand():
    # Bins of three: {0.5, 0.6, 0.6} and {0.6, 0.6, 0.9}; a 0.6 is right in 3 of 4 cases.
    # |0.5 + 1.2 - 0 - 1.5| and |1.2 + 0.9 - 1.5 - 1|.
    confidence, correct = [0.6, 0.9, 0.6, 0.5, 0.6, 0.6], [True, True, True, False, False, True]
    value = ece(confidence, correct, num_bins=2, binning="quantile")
    assert value == pytest.approx((0.2 + 0.4) / 6, abs=1e-6)


def test_one_bin_is_the_mean_gap():
    assert ece([0.6, 0.9, 1.0], [False, True, False], num_bins=1) == pytest.approx(1.5 / 3, abs=1e-6)


def test_binned_error_takes_any_scores():
    # One class apart from the others: scores and outcomes without a maximum. Two bins, {0.2, 0.4} and {0.9}.
    scores, outcomes = np.asarray([0.2, 0.9, 0.4, 0.7]), np.asarray([0, 1, 1, 0])
    mask = np.asarray([True, True, True, False])
    expected = (abs(0.6 - 1) + abs(0.9 - 1)) / 3
    assert metrics.binned_error(scores, outcomes, mask, num_bins=2) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", ["expected_calibration_error", "classwise_calibration_error", "reliability"])
def test_unknown_binning_raises(metric):
    with pytest.raises(ValueError, match="'uniform', 'quantile'"):
        getattr(metrics, metric)(np.eye(2), np.arange(2), binning="equal")


def test_classwise_by_hand():
    probabilities = np.asarray([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    labels = np.asarray([0, 1, 2])
    # Two bins. Class 0: {0.1} 0.1 - 0, {0.7, 0.6} 1.3 - 1. Class 1: {0.2, 0.3, 0.1} 0.6 - 1.
    # Class 2: {0.1, 0.1} 0.2 - 0, {0.8} 0.8 - 1.
    expected = ((0.1 + 0.3) + 0.4 + (0.2 + 0.2)) / 3 / 3
    value = metrics.classwise_calibration_error(probabilities, labels, num_bins=2)
    assert value == pytest.approx(expected, abs=1e-6)


def test_reliability_by_hand():
    count, confidence, correct = metrics.reliability(
        *predictions([0.5, 0.55, 0.9, 1.0], [True, False, True, True]), num_bins=5
    )
    np.testing.assert_array_equal(count, [0, 0, 2, 0, 2])
    np.testing.assert_allclose(confidence, [np.nan, np.nan, 0.525, np.nan, 0.95], rtol=1e-6)
    np.testing.assert_allclose(correct, [np.nan, np.nan, 0.5, np.nan, 1], rtol=1e-6)


@pytest.mark.parametrize("binning", metrics.BINNINGS)
@given(logits=LOGITS, labels=LABELS)
def test_reliability_sums_to_ece(binning, logits, labels):
    probabilities = softmax(logits)
    count, confidence, correct = metrics.reliability(probabilities, labels, num_bins=5, binning=binning)
    assert count.sum() == COUNT
    summed = np.nansum(count * np.abs(confidence - correct)) / COUNT
    value = metrics.expected_calibration_error(probabilities, labels, num_bins=5, binning=binning)
    np.testing.assert_allclose(value, summed, rtol=2e-6, atol=5e-7)


def kde_by_sums(confidence, correct):
    """Mix-n-Match's estimate, with every kernel at every point of the grid."""
    points = np.linspace(-0.6, 1.6, 2**14)
    radius = 3 * np.std(confidence[correct]) * (2 * len(confidence)) ** -0.2

    def density(values):
        values = np.concatenate([values, -values[values < 0.5], 2 - values[values >= 0.5]])
        kernels = (35 / 32 * np.maximum(1 - ((points - value) / radius) ** 2, 0) ** 3 / radius for value in values)
        return np.where((points > 0) & (points < 1), 2 * sum(kernels) / len(values), 0)

    of_all, of_correct = density(confidence), density(confidence[correct])
    accuracy = np.minimum(correct.mean() * of_correct / np.where(of_all > 0, of_all, 1), 1)
    return np.sum(np.abs(points - accuracy) * of_all) / np.sum(of_all)


@pytest.mark.parametrize("sure", [1, 4])
def test_kde_is_that_of_the_kernels_one_by_one(sure):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(4, 0.7), 200)
    labels = np.asarray([rng.choice(4, p=p) for p in probabilities])
    probabilities = (probabilities**sure / (probabilities**sure).sum(axis=-1, keepdims=True)).astype(np.float32)
    confidence, correct = probabilities.max(axis=-1).astype(np.float64), probabilities.argmax(axis=-1) == labels
    # Values are shared between the grid's points.
    assert metrics.kde_calibration_error(probabilities, labels) == pytest.approx(
        kde_by_sums(confidence, correct), abs=2e-5
    )


@pytest.mark.parametrize(("correct", "expected"), [([True, False], 0.2), ([False, False], 0.7), ([True, True], 0.3)])
def test_kde_of_one_confidence_is_its_gap(correct, expected):
    assert metrics.kde_calibration_error(*predictions([0.7, 0.7], correct)) == pytest.approx(expected, abs=1e-3)
