import functools

import numpy as np
import pytest

from arada import metrics
from arada.evaluation import outcomes


@pytest.fixture
def predicted():
    """(probabilities, labels): right where sure, wrong elsewhere, so too sure in some bins and not enough in others."""
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 50)
    return probabilities, (probabilities.argmax(axis=-1) + (probabilities.max(axis=-1) < 0.5)) % 4


def test_of_each_image_by_hand():
    of = outcomes.from_probabilities(np.array([[0.5, 0.25, 0.25], [0.0, 0.2, 0.8]]), np.array([1, 2]), num_bins=5)
    np.testing.assert_allclose(of.confidence, [0.5, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(of.correct, [False, True])
    np.testing.assert_allclose(of.nll, -np.log([0.25, 0.8]), rtol=1e-6)
    np.testing.assert_allclose(of.brier, [0.25 + 0.5625 + 0.0625, 0.04 + 0.04], rtol=1e-6)
    np.testing.assert_allclose(of.entropy, [1.5 * np.log(2), -0.2 * np.log(0.2) - 0.8 * np.log(0.8)], rtol=1e-6)


def test_measure_is_the_metrics_called_one_by_one(predicted):
    probabilities, labels = predicted
    error = functools.partial(metrics.expected_calibration_error, *predicted, num_bins=7)
    confidence, correct = probabilities.max(axis=-1), probabilities.argmax(axis=-1) == labels
    expected = {
        "accuracy": metrics.accuracy(probabilities, labels),
        "confidence": confidence.mean(),
        "ece": error(),
        "ece_floor": metrics.calibration_floor(probabilities, num_bins=7).mean,
        "ece_p95": metrics.calibration_floor(probabilities, num_bins=7).p95,
        "ece_debiased": metrics.debiased_calibration_error(*predicted, num_bins=7),
        "ece_quantile": error(binning="quantile"),
        "ece_quantile_floor": metrics.calibration_floor(probabilities, num_bins=7, binning="quantile").mean,
        "ece_quantile_p95": metrics.calibration_floor(probabilities, num_bins=7, binning="quantile").p95,
        "classwise_ece_floor": metrics.classwise_calibration_floor(probabilities, num_bins=7, draws=200).mean,
        "classwise_ece_p95": metrics.classwise_calibration_floor(probabilities, num_bins=7, draws=200).p95,
        "classwise_ece": metrics.classwise_calibration_error(probabilities, labels, num_bins=7),
        "smooth_ece": metrics.smooth_calibration_error(probabilities, labels),
        "kde_ece": metrics.kde_calibration_error(probabilities, labels),
        "nll": metrics.negative_log_likelihood(probabilities, labels),
        "brier": metrics.brier_score(probabilities, labels),
        "entropy": metrics.entropy(probabilities).mean(),
        "aurc": metrics.risk_coverage(confidence, correct)[2],
    }
    of = outcomes.from_probabilities(probabilities, labels, 7)
    found = outcomes.measure(of, 7) | outcomes.measure_slowly(of, probabilities, 7)
    assert {type(value) for value in found.values()} == {float}
    assert found == pytest.approx({key: float(value) for key, value in expected.items()}, rel=1e-5)
    assert outcomes.measure(outcomes.from_probabilities(probabilities, labels, 1), 1)["ece"] < 0.9 * found["ece"]


def test_what_is_not_known_is_none(predicted):
    of = outcomes.from_probabilities(*predicted, 7)._replace(classwise_ece=np.nan)
    assert outcomes.measure(of, 7)["classwise_ece"] is None
