"""Floors and debiased errors, by hand and by draws."""

import jax
import numpy as np
import pytest
from scipy import stats

from arada import metrics

COUNT, CLASSES = 12, 3


def softmax(logits):
    return np.asarray(jax.nn.softmax(logits))


def predictions(confidence, correct, num_classes=10):
    """Probabilities and labels with the given confidences and outcomes; class 0 is always predicted."""
    confidence = np.asarray(confidence, np.float32)
    probabilities = np.repeat((1 - confidence[:, None]) / (num_classes - 1), num_classes, axis=1)
    probabilities[:, 0] = confidence
    return probabilities, np.where(np.broadcast_to(correct, confidence.shape), 0, 1)


def drawn_floor(probabilities, error, draws=4000):
    """Mean and 95th percentile of `error(labels)` with labels drawn from the probabilities, one draw at a time."""
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(draws):
        uniform = rng.random((len(probabilities), 1))
        errors.append(error(np.sum(np.cumsum(probabilities, axis=-1) < uniform, axis=-1)))
    return np.mean(errors), np.quantile(errors, 0.95)


def binned_by_loops(scores, outcomes, num_bins, binning):
    if binning == "uniform":
        bins = np.minimum((scores * num_bins).astype(int), num_bins - 1)
    else:
        bins = np.argsort(np.argsort(scores, kind="stable"), kind="stable") * num_bins // len(scores)
    return sum(abs(np.sum((scores - outcomes)[bins == k])) for k in range(num_bins)) / len(scores)


def test_floor_of_one_bin_by_hand():
    # 500 images at confidence 0.9: E|Binomial(500, 0.9) / 500 - 0.9| = 0.0107.
    right = np.arange(501)
    gap = np.abs(right / 500 - 0.9)
    expected = gap @ stats.binom.pmf(right, 500, 0.9)
    floor = metrics.binned_floor(np.full(500, 0.9))
    assert expected == pytest.approx(0.0107, abs=5e-5)
    assert floor.mean == pytest.approx(expected, rel=1e-9)
    # |k - 450| <= 13 holds with a probability of 0.956, <= 12 with 0.937.
    assert floor.p95 == pytest.approx(13 / 500, abs=1e-9)


@pytest.mark.parametrize("binning", metrics.BINNINGS)
def test_floor_is_that_of_labels_drawn_one_by_one(binning):
    probabilities = softmax(np.random.default_rng(0).normal(0, 2, (150, 4))).astype(np.float64)
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    options = {"num_bins": 7, "binning": binning}

    def error(labels):
        correct = probabilities.argmax(axis=-1) == labels
        return binned_by_loops(probabilities.max(axis=-1), correct, *options.values())

    def classwise(labels):
        return np.mean([binned_by_loops(probabilities[:, z], labels == z, *options.values()) for z in range(4)])

    found = metrics.calibration_floor(probabilities, draws=4000, **options)
    # The mean of 4,000 draws of an error that moves by a fourth of itself is 0.4 % off, the percentile 0.8 %.
    assert found == pytest.approx(drawn_floor(probabilities, error), rel=0.02)
    found = metrics.classwise_calibration_floor(probabilities, draws=2000, **options)
    assert found == pytest.approx(drawn_floor(probabilities, classwise, draws=2000), rel=0.02)


def test_the_number_of_successes_is_that_of_trial_after_trial():
    for count in (1, 3, 400):
        chances = np.random.default_rng(count).random(count)
        expected = np.ones(1)
        for chance in chances:
            expected = np.convolve(expected, [1 - chance, chance])
        values, found = metrics.floors._poisson_binomial(chances)
        np.testing.assert_allclose(found, expected[values], atol=1e-12)
        assert found.sum() == pytest.approx(1, abs=1e-12)


def test_a_calibrated_network_is_below_its_percentile_in_19_of_20_cases():
    rng, confidence = np.random.default_rng(0), np.random.default_rng(1).uniform(0.3, 1, 200)
    floor = metrics.binned_floor(confidence)
    errors = [binned_by_loops(confidence, rng.random(200) < confidence, 15, "uniform") for _ in range(2000)]
    assert np.mean(np.asarray(errors) > floor.p95) == pytest.approx(0.05, abs=0.015)


def test_certain_predictions_have_no_floor():
    assert metrics.calibration_floor(np.eye(3)) == pytest.approx((0, 0), abs=1e-12)
    assert metrics.classwise_calibration_floor(np.eye(3)) == (0, 0)


@pytest.mark.parametrize("floor", [metrics.calibration_floor, metrics.classwise_calibration_floor])
def test_floor_of_what_is_not_known_is_nan(floor):
    assert np.isnan(floor(np.asarray([[0.4, 0.6], [np.nan, np.nan]]))).all()
    assert np.isnan(floor(np.zeros((0, 2)))).all()
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        floor(np.asarray([[2.0, -1.0]]))


def debiased(confidence, correct, **options):
    return metrics.debiased_calibration_error(*predictions(confidence, correct), **options)


def test_debiased_error_by_hand():
    # One bin, 0.8 on average, 5 of 10 right: the squared gap 0.09 less 0.25 / 9.
    confidence, correct = [0.8] * 10, [True, False] * 5
    assert debiased(confidence, correct, norm=2) == pytest.approx(np.sqrt(0.09 - 0.25 / 9), rel=1e-6)
    # Twice the gap less the mean of |X|, X normal around it with a standard error of sqrt(0.25 / 10).
    folded = stats.foldnorm(0.3 / np.sqrt(0.025), scale=np.sqrt(0.025)).mean()
    assert debiased(confidence, correct) == pytest.approx(0.6 - folded, rel=1e-5)
    # No gap: less than nothing, by what chance alone would add, or nothing.
    assert debiased([0.5] * 10, correct) == pytest.approx(-np.sqrt(0.025 * 2 / np.pi), rel=1e-5)
    assert debiased([0.5] * 10, correct, norm=2) == 0


def test_debiasing_leaves_alone_what_shows_no_spread():
    assert debiased([0.8] * 3 + [0.3], [True] * 3 + [False]) == pytest.approx((3 * 0.2 + 0.3) / 4, rel=1e-6)
    # A bin of one image says nothing of its spread: with norm 2 it counts as calibrated.
    assert debiased([0.8] * 3 + [0.3], [True] * 3 + [False], norm=2) == pytest.approx(np.sqrt(0.75 * 0.04), rel=1e-6)


def test_debiased_errors_are_nearer_to_the_truth():
    """Confidences of a network that is over-confident by 0.05 everywhere."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        confidence = rng.uniform(0.4, 1, 300)
        correct = rng.random(300) < confidence - 0.05
        raw = binned_by_loops(confidence, correct, 15, "uniform")
        found.append((raw, *(metrics.debiased_error(confidence, correct, norm=norm) for norm in (1, 2))))
    raw, first, second = np.mean(found, axis=0)
    assert raw > 0.07
    assert 0.04 < second < 0.055
    assert 0.05 < first < 0.066


@pytest.mark.parametrize("norm", [1, 2])
def test_debiased_error_of_nan_is_nan(norm):
    for scores in ([0.5, np.nan, 0.9], [0.5, 0.6, np.nan]):
        assert np.isnan(metrics.debiased_error(scores, [1, 0, 1], norm=norm))
    assert np.isnan(metrics.debiased_error([], [], norm=norm))
    with pytest.raises(ValueError, match="norm must be 1 or 2, not 3"):
        metrics.debiased_error([0.5], [1], norm=3)
