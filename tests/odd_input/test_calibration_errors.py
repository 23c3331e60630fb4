"""Odd input to calibration errors, and to what they are by chance, gives the value of a NumPy oracle, or ValueError."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd import (
    CLASSES,
    NUM_BINS,
    check,
    fine_outcomes,
    fits_masked,
    labels_in_range,
    masks,
    odd,
    outcomes,
    probabilities,
    rows,
    scores,
    slow,
    whole,
    wide,
)
from oracles import correctness, error, in_bins
from scipy import optimize, stats

from arada import metrics


def classwise(p, y, mask, num_bins, binning):
    p, y = wide(p), np.asarray(y, int)
    return np.mean([error(p[:, z], y == z, mask, num_bins, binning) for z in range(p.shape[-1])])


@pytest.mark.parametrize("binning", metrics.BINNINGS)
@pytest.mark.parametrize("function", ["expected", "classwise"])
@slow
@given(st.tuples(probabilities(), whole(), masks(), NUM_BINS))
def test_calibration_errors(function, binning, arguments):
    def found(p, y, mask, num_bins):
        of = getattr(metrics, f"{function}_calibration_error")
        return of(p, y, mask, num_bins=num_bins, binning=binning)

    def oracle(p, y, mask, num_bins):
        of = classwise if function == "classwise" else lambda p, y, *rest: error(*correctness(p, y), *rest)
        return of(p, y, mask, num_bins, binning)

    check(found, oracle, arguments, fits_masked)


@pytest.mark.parametrize("binning", metrics.BINNINGS)
@slow
@given(st.tuples(scores(), outcomes(), masks(), NUM_BINS))
def test_binned_error(binning, arguments):
    def fits(s, o, mask, _):
        return rows(s, o) and (mask is None or rows(s, mask)) and fine_outcomes(o)

    check(
        lambda s, o, mask, num_bins: metrics.binned_error(s, o, mask, num_bins=num_bins, binning=binning),
        lambda s, o, mask, num_bins: error(s, o, mask, num_bins, binning),
        arguments,
        fits,
    )


@pytest.mark.parametrize("binning", metrics.BINNINGS)
@slow
@given(st.tuples(probabilities(), whole(), NUM_BINS))
def test_reliability(binning, arguments):
    def oracle(p, y, num_bins):
        bins = in_bins(*correctness(p, y), num_bins, binning) if len(p) else [([], [])] * num_bins
        means = [[np.mean(of[i]) if len(of[i]) else np.nan for of in bins] for i in range(2)]
        return [len(s) for s, _ in bins], *means

    def fits(p, y, _):
        return labels_in_range(p, y) and not np.isnan(wide(p)).any()

    check(lambda p, y, k: metrics.reliability(p, y, num_bins=k, binning=binning), oracle, arguments, fits)


# By their definitions, on grids.


def debiased(scores, outcomes, num_bins=15, binning="uniform", norm=1):
    """Kumar, Liang and Ma 2019: of each bin, twice the gap less the mean of |a normal number around it|; or squares."""
    total = 0.0
    for s, o in in_bins(scores, outcomes, num_bins, binning):
        if not len(s):
            continue
        gap, variance = abs(np.mean(s - o)), o.mean() * (1 - o.mean())
        if norm == 2:
            total += len(s) * (gap**2 - variance / (len(s) - 1)) if len(s) > 1 else 0
        else:
            error = np.sqrt(variance / len(s))
            total += len(s) * (2 * gap - (stats.foldnorm.mean(gap / error, scale=error) if error else gap))
    return total / len(scores) if norm == 1 else np.sqrt(max(total, 0) / len(scores))


def smooth(scores, outcomes):
    """Blasiok and Nakkiran 2023: the width of a reflected Gaussian at which the smoothed gap is as large as the width.

    The Gaussian ends at half a unit, as in their package, which matters for gaps above 0.2 alone.
    """
    points = (np.arange(2000) + 0.5) / 2000
    distances = points[:, None, None] - np.stack([scores, -scores, 2 - scores], axis=-1)

    def gap(width):
        kernels = np.where(abs(distances) < 0.5, np.exp(-np.square(distances / width) / 2), 0).sum(axis=-1)
        return np.abs(kernels @ (scores - outcomes)).sum() / kernels.sum()

    least = 1e-3
    return optimize.brentq(lambda width: gap(width) - width, least, 1) if gap(least) > least else gap(least)


def by_kernels(scores, outcomes):
    """Zhang et al. 2020: densities by triweight kernels, reflected at the nearer end."""
    points, correct = np.linspace(0, 1, 20_001)[1:-1], outcomes == 1
    spread = np.std(scores[correct]) if correct.any() else 0.0
    radius = 3 * max(spread * (2 * len(scores)) ** -0.2, 2.2 / (2**14 - 1))

    def density(values):
        centres = np.concatenate([values, np.where(values < 0.5, -values, 2 - values)])
        inside = 1 - np.square((points[:, None] - centres) / radius)
        return 35 / 32 / radius * np.sum(np.maximum(inside, 0) ** 3, axis=1) / max(len(values), 1)

    of_all, of_correct = density(scores), density(scores[correct])
    accuracy = np.minimum(correct.mean() * of_correct / np.where(of_all > 0, of_all, 1), 1)
    return np.sum(np.abs(points - accuracy) * of_all) / np.sum(of_all)


def sweep(scores, outcomes, norm=1):
    """Roelofs et al. 2022: bins of equal mass, one more at a time while accuracy rises; equal scores share theirs."""
    for num_bins in range(1, max(len(scores), 2)):
        bins = in_bins(scores, outcomes, num_bins, "quantile")
        accuracy = [np.mean(o) for _, o in bins]
        if (np.diff(accuracy) < -1e-9).any():
            break
        error = sum(len(s) * abs(np.mean(s - o)) ** norm for s, o in bins) / len(scores)
    return error ** (1 / norm)


# Tolerances other than rounding: the grids, and the search for a width in steps of 1/1024.
ERRORS = {
    "debiased": (debiased, 1e-6, {}),
    "debiased_of_mass": (debiased, 1e-6, {"num_bins": 3, "binning": "quantile"}),
    "debiased_of_squares": (debiased, 1e-6, {"num_bins": 3, "norm": 2}),
    "sweep": (sweep, 1e-6, {}),
    "sweep_of_squares": (sweep, 1e-6, {"norm": 2}),
    "smooth": (smooth, 3e-3, {}),
    "kde": (by_kernels, 1e-3, {}),
}


@pytest.mark.parametrize("name", ERRORS)
@slow
@given(st.tuples(scores(), outcomes()))
def test_errors_of_scores(name, arguments):
    oracle, atol, options = ERRORS[name]
    function = functools.partial(getattr(metrics, f"{name.split('_')[0]}_error"), **options)

    def of_numbers(scores, outcomes):
        scores, outcomes = (np.asarray(values, np.float64) for values in (scores, outcomes))
        return oracle(scores.clip(0, 1), outcomes, **options) if known(scores) else np.nan

    check(function, of_numbers, arguments, lambda s, o: rows(s, o) and fine_outcomes(o), rtol=0, atol=atol)


def known(values):
    return len(values) > 0 and not np.isnan(values).any()


@pytest.mark.parametrize("name", ["debiased", "sweep", "smooth", "kde"])
@settings(max_examples=20)
@given(st.tuples(probabilities(), whole()))
def test_errors_of_probabilities(name, arguments):
    oracle, atol, _ = ERRORS[name]

    def of_confidence(p, y):
        confidence, correct = correctness(p, y)
        return oracle(confidence.clip(0, 1), correct) if known(confidence) else np.nan

    check(getattr(metrics, f"{name}_calibration_error"), of_confidence, arguments, labels_in_range, rtol=0, atol=atol)


# What chance alone makes: over all outcomes, each as likely as the scores say.


def of_all_outcomes(scores):
    """The calibration error of each of the 2^N outcomes, and its probability."""
    outcomes = list(itertools.product((0, 1), repeat=len(scores)))
    likely = [np.prod(np.where(right, scores, 1 - scores)) for right in outcomes]
    return [error(scores, right, None, 15, "uniform") for right in outcomes], likely


def of_all_labels(p):
    """The class-wise error of each of the Z^N labels, and its probability."""
    labels = [np.array(of) for of in itertools.product(range(CLASSES), repeat=len(p))]
    likely = [np.prod(p[np.arange(len(p)), of]) for of in labels]
    return [classwise(p, of, None, 15, "uniform") for of in labels], likely


@pytest.mark.parametrize(
    ("function", "of", "values_of", "oracle", "tolerance"),
    [
        (metrics.binned_floor, scores(), lambda values: np.asarray(values, np.float64), of_all_outcomes, 1e-6),
        (metrics.calibration_floor, probabilities(), lambda p: wide(p).max(axis=-1), of_all_outcomes, 1e-6),
        # The mean of 2,000 draws of an error whose standard deviation is below 0.1: five of its standard errors.
        (metrics.classwise_calibration_floor, probabilities(), wide, of_all_labels, 0.011),
    ],
)
@settings(max_examples=20)
@given(st.data())
def test_floors(function, of, values_of, oracle, tolerance, data):
    (values, fine), (draws, draws_are_fine) = data.draw(st.tuples(of, odd(2000, (0, False), (2.5, False))))
    if not (fine and draws_are_fine):
        with pytest.raises(ValueError, match="must"):
            function(values, draws=draws)
        return
    found = function(values, draws=draws)
    if not len(values) or not known(values_of(values)):
        assert np.isnan(found).all()
        return
    errors, likely = map(np.asarray, oracle(values_of(values)))
    np.testing.assert_allclose(found.mean, errors @ likely, rtol=0, atol=tolerance)
    # At most 95 % are below the percentile, and at least 95 % not above it, as far as 2,000 draws can tell.
    assert likely[errors < found.p95 - 1e-6].sum() < 0.95 + 0.025
    assert likely[errors <= found.p95 + 1e-6].sum() > 0.95 - 0.025
