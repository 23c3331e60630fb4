"""Metrics against netcal and scikit-learn, which were written independently of arada."""

import numpy as np
import pytest
import scipy.special
from sklearn import metrics as sklearn_metrics

from arada import metrics

# 300 examples fill 15 equal-mass bins exactly. Where the count is no multiple of the bins, or confidences tie, netcal
# cuts at interpolated quantiles of the values and arada at ranks, and they differ by design.
COUNT, CLASSES, BINS = 300, 5, 15


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (COUNT, CLASSES))
    probabilities = scipy.special.softmax(logits, axis=-1)
    labels = np.asarray([rng.choice(CLASSES, p=p) for p in scipy.special.softmax(0.6 * logits, axis=-1)])
    return probabilities, labels


@pytest.mark.peer
@pytest.mark.parametrize("binning", metrics.BINNINGS)
def test_ece_is_netcals(peer, sample, binning):
    probabilities, labels = sample
    expected = peer("netcal.metrics").ECE(BINS, equal_intervals=binning == "uniform").measure(probabilities, labels)
    value = metrics.expected_calibration_error(probabilities, labels, num_bins=BINS, binning=binning)
    assert value == pytest.approx(expected, rel=1e-5)


def test_nll_is_sklearns(sample):
    probabilities, labels = sample
    expected = sklearn_metrics.log_loss(labels, probabilities)
    assert metrics.negative_log_likelihood(probabilities, labels) == pytest.approx(expected, rel=1e-6)


def test_brier_is_twice_sklearns_binary_one(sample):
    score = sample[0][:, 0]
    is_first = sample[1] == 0
    expected = 2 * sklearn_metrics.brier_score_loss(is_first, score)
    value = metrics.brier_score(np.stack([1 - score, score], axis=-1), is_first.astype(int))
    assert value == pytest.approx(expected, rel=1e-6)


def test_auroc_is_the_mann_whitney_count(sample):
    confidence, correct = (np.asarray(x) for x in metrics.confidence_and_correct(*sample))
    confidence = confidence.round(1)  # ties count one half
    pairs = confidence[correct][:, None] - confidence[~correct][None]
    expected = np.mean((pairs > 0) + 0.5 * (pairs == 0))
    assert metrics.auroc(confidence, correct) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("decimals", [1, 12], ids=["ties", "distinct"])
def test_fpr95_is_that_of_sklearns_curve(sample, decimals):
    confidence, correct = (np.asarray(x, np.float64) for x in metrics.confidence_and_correct(*sample))
    confidence = confidence.round(decimals)
    false_positive, true_positive, _ = sklearn_metrics.roc_curve(correct, confidence, drop_intermediate=False)
    for rate in (0.5, 0.8, 0.95, 1.0):
        expected = false_positive[np.argmax(true_positive >= rate)]
        assert metrics.false_positive_rate(confidence, correct, rate) == pytest.approx(expected, rel=1e-12)
