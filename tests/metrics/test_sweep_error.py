"""The calibration error whose number of bins the data choose, by hand, by a loop and by its authors' code."""

import itertools

import numpy as np
import pytest

from arada import metrics


def by_loops(scores, outcomes, norm):
    """Every number of bins one by one; scores without ties."""
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    error = None
    for num_bins in range(1, max(len(scores), 2)):
        bins = [[i for row, i in enumerate(order) if row * num_bins // len(order) == b] for b in range(num_bins)]
        accuracies = [sum(outcomes[i] for i in members) / len(members) for members in bins]
        if any(later < earlier - 1e-9 for earlier, later in itertools.pairwise(accuracies)):
            break
        gaps = [abs(sum(scores[i] - outcomes[i] for i in members) / len(members)) for members in bins]
        error = (sum(len(b) * gap**norm for b, gap in zip(bins, gaps, strict=True)) / len(scores)) ** (1 / norm)
    return error


def test_by_hand():
    # Three bins, of 2, 1 and 1 images: the accuracies 0, 1 and 1 do not fall; four would be as many as images.
    scores, outcomes = [0.2, 0.4, 0.7, 0.9], [0, 0, 1, 1]
    assert metrics.sweep_error(scores, outcomes) == pytest.approx((2 * 0.3 + 0.3 + 0.1) / 4)
    # Two bins already fall: one bin, |0.55 - 0.5|.
    assert metrics.sweep_error(scores, [1, 1, 0, 0]) == pytest.approx(0.05)


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 3, 57, 200])
def test_by_loops(count, norm):
    rng = np.random.default_rng(count)
    scores = rng.random(count)
    outcomes = (rng.random(count) < scores**2).astype(float)
    assert metrics.sweep_error(scores, outcomes, norm=norm) == pytest.approx(by_loops(scores, outcomes, norm), rel=1e-6)


def test_as_its_authors_code():
    """Printed by em_ece_sweep of google-research/caltrain, which chose nine bins."""
    scores = (np.arange(200) + 0.5) / 200
    outcomes = np.arange(200) * 7919 % 200 / 200 < scores**2
    assert metrics.sweep_error(scores, outcomes) == pytest.approx(0.16, abs=1e-6)
    assert metrics.sweep_error(scores, outcomes, norm=2) == pytest.approx(0.180224878, abs=1e-6)


def test_less_biased_than_fifteen_bins():
    """Calibrated predictions: what is found is bias."""
    rng, found = np.random.default_rng(0), []
    for _ in range(100):
        confidence = rng.uniform(0.4, 1, 300)
        correct = rng.random(300) < confidence
        found.append((metrics.sweep_error(confidence, correct), float(metrics.binned_error(confidence, correct))))
    sweep, fifteen = np.mean(found, axis=0)
    assert sweep < 0.8 * fifteen


def test_order_of_equal_scores_does_not_count():
    outcomes = np.repeat([1.0, 0.0], [90, 10])
    for order in (outcomes, outcomes[::-1]):
        assert metrics.sweep_error(np.full(100, 0.9), order) == pytest.approx(0, abs=1e-6)


def test_from_probabilities_and_what_is_refused():
    assert metrics.sweep_calibration_error(np.asarray([[0.2, 0.8], [0.4, 0.6]]), [1, 0]) == pytest.approx(0.2)
    assert np.isnan(metrics.sweep_error([0.5, np.nan], [1, 0]))
    assert np.isnan(metrics.sweep_error([], []))
    with pytest.raises(ValueError, match="norm must be 1 or 2, not 3"):
        metrics.sweep_error([0.5], [1], norm=3)
