"""Metrics against netcal, uncertainty-calibration and scikit-learn, which were written independently of arada."""

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


@pytest.mark.peer
@pytest.mark.parametrize("binning", metrics.BINNINGS)
@pytest.mark.parametrize("norm", [1, 2])
def test_debiased_error_is_that_of_kumar_et_al(peer, sample, binning, norm):
    theirs, (probabilities, labels) = peer("calibration.utils"), sample
    # Their code needs two examples in each bin, and asks for integer labels of at least two kinds.
    bins = {
        "num_bins": 5,
        "binning_scheme": getattr(theirs, {"uniform": "get_equal_prob_bins"}.get(binning, "get_equal_bins")),
    }
    sure = probabilities.max(axis=-1) > 0.45
    few = slice(0, 5 * (sure.sum() // 5))
    probabilities, labels = probabilities[sure][few], labels[sure][few]
    confidence, correct = (np.asarray(x) for x in metrics.confidence_and_correct(probabilities, labels))
    scores = (confidence - 0.4).clip(0, 1) / 0.6  # so that no bin is empty
    np.random.seed(0)  # noqa: NPY002 - norm 1 is over 1,000 draws of the global generator there
    expected = theirs.lower_bound_scaling_ce(scores, correct.astype(int), p=norm, debias=True, **bins)
    value = metrics.debiased_error(scores, correct, num_bins=5, binning=binning, norm=norm)
    assert value == pytest.approx(expected, abs={1: 1e-3, 2: 1e-6}[norm])
    plain = theirs.lower_bound_scaling_ce(scores, correct.astype(int), p=norm, debias=False, **bins)
    assert abs(value - plain) > 5e-3  # there is something to correct


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
