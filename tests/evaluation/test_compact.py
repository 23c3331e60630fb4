import numpy as np
import pytest

from arada import calibrators, metrics
from arada.evaluation import compact, outcomes

NUM_BINS = 5


@pytest.fixture(scope="module")
def predicted():
    """Logits and labels of 300 images in 40 classes, as unsure as those of a poor network."""
    rng = np.random.default_rng(0)
    labels = rng.integers(40, size=300)
    return (2 * rng.normal(size=(300, 40)) + 4 * np.eye(40)[labels]).astype(np.float32), labels


@pytest.fixture(scope="module")
def fitted(predicted):
    return {name: fit(*predicted) for name, fit in calibrators.BY_NAME.items()}


def test_outcomes_are_those_of_the_logits(predicted, fitted):
    logits, labels = predicted
    stored = compact.compact(logits, labels, fitted, NUM_BINS)
    assert compact.is_compact(stored)
    assert not compact.is_compact({"logits": logits})
    for name, calibrator in {"plain": calibrators.Calibrator(1.0), **fitted}.items():
        expected = outcomes.from_probabilities(calibrator(logits), labels, NUM_BINS)
        found = compact.outcomes_of(stored, name, NUM_BINS)
        for of_found, of_expected in zip(found, expected, strict=True):
            np.testing.assert_allclose(of_found, of_expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(compact.outcomes_of(stored, "plain", NUM_BINS + 1).classwise_ece)


def test_the_largest_probabilities_are_kept(predicted):
    logits, labels = predicted
    exact = calibrators.Calibrator(1.0)(logits)
    found = compact.probabilities_of(compact.compact(logits, labels, {}, NUM_BINS))
    kept = found > 0
    assert (kept.sum(axis=-1) == compact.TOP).all()
    np.testing.assert_allclose(found[kept], exact[kept], rtol=1e-5)
    assert (np.where(kept, 0, exact).max(axis=-1) <= np.where(kept, exact, 1).min(axis=-1) + 1e-7).all()


def test_variance_is_off_by_less_than_what_is_left_out(predicted):
    logits, labels = predicted
    runs = [logits, logits + np.random.default_rng(1).normal(size=logits.shape).astype(np.float32)]
    exact = np.stack([calibrators.Calibrator(1.0)(of) for of in runs])
    found = np.stack([compact.probabilities_of(compact.compact(of, labels, {}, NUM_BINS)) for of in runs])
    of_exact, of_found = (metrics.prediction_variance(of, labels) for of in (exact, found))
    assert of_found == pytest.approx(of_exact, rel=1e-3)


def test_fewer_classes_than_are_kept():
    logits = np.log(np.array([[0.25, 0.75]], np.float32))
    stored = compact.compact(logits, np.array([1]), {}, NUM_BINS)
    np.testing.assert_allclose(compact.probabilities_of(stored), [[0.25, 0.75]], rtol=1e-6)
