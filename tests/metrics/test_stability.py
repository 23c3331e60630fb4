"""Variance over runs, detection and selective prediction, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from arada import metrics

COUNT, CLASSES = 12, 3


@pytest.mark.parametrize(
    ("of", "first", "second"),
    [
        # Mean of runs [0.5, 0.4, 0.1]: class 0 with 0.7, 0.3; mean [0.4, 0.6, 0]: class 1 with 0.5, 0.7.
        ("predicted_class", 2 * 0.2**2, 2 * 0.1**2),
        # Class 2 with 0.1, 0.1; class 0 with 0.5, 0.3.
        ("true_class", 0, 2 * 0.1**2),
        # 0.7 and 0.6; 0.5 and 0.7.
        ("own_confidence", 2 * 0.05**2, 2 * 0.1**2),
        ("all_classes", 2 * (0.2**2 + 0.2**2), 2 * (0.1**2 + 0.1**2)),
    ],
)
def test_variance_by_hand(of, first, second):
    probabilities = np.asarray([[[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]], [[0.3, 0.6, 0.1], [0.3, 0.7, 0.0]]])
    labels = np.asarray([2, 0])
    # M - 1 = 1, so the squared deviations are summed.
    np.testing.assert_allclose(metrics.example_variance(probabilities, labels, of), [first, second], atol=1e-15)
    value = metrics.prediction_variance(probabilities, labels, of)
    np.testing.assert_allclose(value, (first + second) / 2, atol=1e-15)


def test_variance_divides_by_runs_less_one():
    probabilities = np.asarray([[[1.0, 0.0]], [[1.0, 0.0]], [[0.7, 0.3]]])
    # Mean 0.9: (0.1^2 + 0.1^2 + 0.2^2) / 2
    value = metrics.prediction_variance(probabilities, np.asarray([0]))
    np.testing.assert_allclose(value, 0.03, atol=1e-15)


def test_variance_bad_arguments_raise():
    with pytest.raises(ValueError, match=r"of M >= 2 runs"):
        metrics.prediction_variance(np.full((1, 4, 2), 0.5), np.zeros(4, int))
    with pytest.raises(ValueError, match=r"of M >= 2 runs"):
        metrics.prediction_variance(np.full((4, 2), 0.5), np.zeros(4, int))
    with pytest.raises(ValueError, match="of must be one of"):
        metrics.prediction_variance(np.full((2, 4, 2), 0.5), np.zeros(4, int), of="mean")


def test_entropy_by_hand():
    value = metrics.entropy(np.asarray([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]]))
    np.testing.assert_allclose(value, [0, np.log(2), np.log(4)], rtol=1e-15)


def test_auroc_by_hand():
    positive = np.asarray([False, False, True, True])
    assert metrics.auroc(np.asarray([0.1, 0.2, 0.3, 0.4]), positive) == 1
    assert metrics.auroc(np.asarray([0.4, 0.3, 0.2, 0.1]), positive) == 0
    assert metrics.auroc(np.asarray([0.5, 0.5, 0.5, 0.5]), positive) == 0.5
    assert metrics.auroc(jnp.asarray([0.1, 0.3, 0.2, 0.4]), jnp.asarray(positive)) == 0.75  # three pairs of four


def test_fpr95_by_hand():
    """Of 20 positives, 1 to 20, 19 score 2 or more."""
    score = np.concatenate([np.arange(1.0, 21), [0.5, 1.5, 1.75, 2.25, 19.5]])
    positive = np.arange(25) < 20
    order = np.random.default_rng(0).permutation(25)
    assert metrics.false_positive_rate(score[order], positive[order]) == 2 / 5
    # All 20 score 1 or more, 18 of them 3 or more; for a share of 18.5 it takes 19.
    assert metrics.false_positive_rate(score, positive, 1.0) == 4 / 5
    assert metrics.false_positive_rate(score, positive, 0.9) == 1 / 5
    assert metrics.false_positive_rate(score, positive, 0.925) == 2 / 5
    # What equals the threshold has reached it.
    assert metrics.false_positive_rate(jnp.asarray(score).at[20].set(2), jnp.asarray(positive)) == 3 / 5


def test_risk_coverage_by_hand():
    # By falling confidence: right, wrong, wrong, right.
    confidence, correct = np.asarray([0.6, 0.9, 0.5, 0.8]), np.asarray([0, 1, 1, 0])
    coverage, risk, area = metrics.risk_coverage(confidence, correct)
    np.testing.assert_array_equal(coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(risk, [0, 1 / 2, 2 / 3, 2 / 4], rtol=1e-15)
    assert area == pytest.approx((1 / 2 + 2 / 3 + 1 / 2) / 4, rel=1e-15)


def test_risk_coverage_shares_errors_among_ties():
    # One right, then two wrong of three.
    _, risk, area = metrics.risk_coverage(np.asarray([0.7, 0.7, 0.9, 0.7]), np.asarray([True, False, True, False]))
    np.testing.assert_allclose(risk, [0, (2 / 3) / 2, (4 / 3) / 3, 2 / 4], rtol=1e-15)
    assert area == pytest.approx((1 / 3 + 4 / 9 + 1 / 2) / 4, rel=1e-15)
