"""Odd input to every public metric gives the value of a NumPy oracle, or ValueError."""

import itertools

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from odd import (
    NUM_BINS,
    SUBSETS,
    check,
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
from scipy import optimize, stats

from arada import inputs, metrics

# Oracles, in float64 and by loops.


def masked(values, mask):
    values = np.asarray(values, np.float64)
    values = values if mask is None else values[np.asarray(mask)]
    return values.mean() if len(values) else np.nan


def correctness(p, y):
    p = wide(p)
    confidence = p.max(axis=-1, initial=-np.inf)
    return confidence, np.where(np.isnan(confidence), np.nan, p.argmax(axis=-1) == np.asarray(y, int))


def error(confidence, correct, mask, num_bins, binning):
    confidence, correct = (np.asarray(of, np.float64) for of in (confidence, correct))
    kept = np.ones(len(confidence), bool) if mask is None else np.asarray(mask)
    confidence, correct = confidence[kept], correct[kept]
    if not len(confidence) or np.isnan(confidence).any():
        return np.nan
    if binning == "uniform":
        bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
        order = np.arange(len(confidence))
    else:
        order = np.argsort(confidence, kind="stable")
        bins = np.arange(len(order)) * num_bins // len(order)
        correct = np.array([correct[confidence == of].mean() for of in confidence])
    gaps = [(confidence - correct)[order][bins == k].sum() for k in range(num_bins)]
    return np.abs(gaps).sum() / len(confidence)


def nll(p, y, mask):
    p = wide(p)
    of_label = np.where(np.isnan(p).any(axis=-1), np.nan, p[np.arange(len(p)), np.asarray(y, int)])
    return masked(-np.log(np.maximum(of_label, np.finfo(np.float32).tiny)), mask)


def brier(p, y, mask):
    p = wide(p)
    return masked(((p - np.eye(p.shape[-1])[np.asarray(y, int)]) ** 2).sum(axis=-1), mask)


def classwise(p, y, mask, num_bins, binning):
    p, y = wide(p), np.asarray(y, int)
    return np.mean([error(p[:, z], y == z, mask, num_bins, binning) for z in range(p.shape[-1])])


MASKED = {
    metrics.accuracy: lambda p, y, mask: masked(correctness(p, y)[1], mask),
    metrics.negative_log_likelihood: nll,
    metrics.brier_score: brier,
}


def fits_masked(p, y, mask, *_):
    return labels_in_range(p, y) and (mask is None or rows(p, mask))


@pytest.mark.parametrize("function", MASKED, ids=lambda function: function.__name__)
@slow
@given(st.tuples(probabilities(), whole(), masks()))
def test_metrics_of_labels(function, arguments):
    check(function, MASKED[function], arguments, fits_masked)


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


@slow
@given(st.tuples(scores(), outcomes(), masks(), NUM_BINS))
def test_binned_error(arguments):
    def fits(s, o, mask, _):
        return rows(s, o) and (mask is None or rows(s, mask)) and fine_outcomes(o)

    check(
        lambda s, o, mask, num_bins: metrics.binned_error(s, o, mask, num_bins=num_bins),
        lambda s, o, mask, num_bins: error(s, o, mask, num_bins, "uniform"),
        arguments,
        fits,
    )


def fine_outcomes(o):
    return np.isin(np.asarray(o), (0, 1)).all()


@slow
@given(st.tuples(probabilities(), whole()))
def test_confidence_and_correct(arguments):
    def oracle(p, y):
        confidence, correct = correctness(p, y)
        return confidence, np.nan_to_num(correct)

    check(metrics.confidence_and_correct, oracle, arguments, labels_in_range)


@slow
@given(st.tuples(probabilities(), whole(), NUM_BINS))
def test_reliability(arguments):
    def oracle(p, y, num_bins):
        confidence, correct = correctness(p, y)
        bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
        each = [bins == k for k in range(num_bins)]
        means = [[of[at].mean() if at.any() else np.nan for at in each] for of in (confidence, correct)]
        return [at.sum() for at in each], *means

    def fits(p, y, _):
        return labels_in_range(p, y) and not np.isnan(wide(p)).any()

    check(lambda p, y, k: metrics.reliability(p, y, num_bins=k), oracle, arguments, fits)


@slow
@given(st.tuples(scores(-np.inf, np.inf), whole(SUBSETS), odd(SUBSETS, (3, True), (0, False), (1.5, False))))
def test_subset_means(arguments):
    def oracle(values, subset, count):
        values, subset = np.asarray(values, np.float64), np.asarray(subset, int)
        return [values[subset == r].mean() if (subset == r).any() else np.nan for r in range(count)]

    check(metrics.subset_means, oracle, arguments, lambda values, subset, _: rows(values, subset))


@slow
@given(st.tuples(probabilities(), whole()), st.sampled_from(metrics.VARIANCES))
def test_variance(arguments, of):
    def oracle(p, y):
        p = wide(p)
        runs = np.stack([p, np.roll(p, 1, axis=-1)])
        of_class = {
            "predicted_class": runs.mean(axis=0).argmax(axis=-1),
            "true_class": np.asarray(y, int),
        }
        values = (
            runs.max(axis=-1)
            if of == "own_confidence"
            else runs.transpose(0, 2, 1)
            if of == "all_classes"
            else runs[:, np.arange(len(p)), of_class[of]]
        )
        variance = values.var(axis=0, ddof=1)
        variance = variance.sum(axis=0) if of == "all_classes" else variance
        return np.where(np.isnan(p).any(axis=-1), np.nan, variance)

    def found(p, y):
        p = inputs.as_array(p)
        p = p if p.dtype.kind in "OUc" else wide(p)
        return metrics.example_variance(np.stack([p, np.roll(p, 1, axis=-1) if p.ndim else p]), y, of)

    (p, p_is_fine), y = arguments
    if of != "true_class":
        y = (np.zeros(np.shape(p)[:1], int), True)
    check(found, oracle, ((p, p_is_fine), y), labels_in_range)


@slow
@given(probabilities())
def test_entropy(p):
    value, fine = p
    if np.ndim(value) == 3:  # any leading axes will do
        fine = np.shape(value)[-1] >= 2
    if np.ndim(value) == 1 and inputs.as_array(value).dtype.kind == "f":
        fine = True

    def oracle(p):
        p = np.asarray(p, np.float64)
        return -np.sum(scipy.special.xlogy(p, p), axis=-1)

    check(metrics.entropy, oracle, [(value, fine)], lambda p: True)


ANY_SCORES = scores(-np.inf, np.inf)


def pairs(score, positive):
    score, positive = np.asarray(score, np.float64), np.asarray(positive, bool)
    won = [(a > b) + (a == b) / 2 for a in score[positive] for b in score[~positive]]
    return np.nan if np.isnan(score).any() or not won else np.mean(won)


def reached(score, positive):
    score, positive = np.asarray(score, np.float64), np.asarray(positive, bool)
    if np.isnan(score).any() or not positive.any() or positive.all():
        return np.nan
    thresholds = [t for t in sorted(score[positive]) if np.mean(score[positive] >= t) >= 0.95]
    return np.mean(score[~positive] >= thresholds[-1])


@pytest.mark.parametrize(("function", "oracle"), [(metrics.auroc, pairs), (metrics.false_positive_rate, reached)])
@slow
@given(st.tuples(ANY_SCORES, outcomes()))
def test_detection(function, oracle, arguments):
    check(function, oracle, arguments, lambda s, o: rows(s, o) and fine_outcomes(o))


@slow
@given(st.tuples(ANY_SCORES, outcomes()))
def test_risk_coverage(arguments):
    def oracle(confidence, correct):
        confidence, wrong = np.asarray(confidence, np.float64), 1 - np.asarray(correct, np.float64)
        risk = []
        for taken in range(1, len(confidence) + 1):
            last = np.sort(confidence)[-taken]
            above, tied = confidence > last, confidence == last
            risk.append((wrong[above].sum() + (taken - above.sum()) * wrong[tied].mean()) / taken)
        return np.arange(1, len(confidence) + 1) / len(confidence), risk, np.mean(risk) if risk else np.nan

    def fits(s, o):
        return rows(s, o) and fine_outcomes(o) and not np.isnan(np.asarray(s, np.float64)).any()

    check(metrics.risk_coverage, oracle, arguments, fits)


# By their definitions, on grids.


def debiased(scores, outcomes):
    """Kumar, Liang and Ma 2019: of each bin, twice the gap less the mean of |a normal number around it|."""
    bins, total = np.minimum((scores * 15).astype(int), 14), 0.0
    for k in set(bins.tolist()):
        gap, accuracy, count = abs(np.mean((scores - outcomes)[bins == k])), outcomes[bins == k].mean(), sum(bins == k)
        error = np.sqrt(accuracy * (1 - accuracy) / count)
        total += count * (2 * gap - (stats.foldnorm.mean(gap / error, scale=error) if error else gap))
    return total / len(scores)


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


def sweep(scores, outcomes):
    """Roelofs et al. 2022: bins of equal mass, one more at a time while accuracy rises; equal scores share theirs."""
    order = np.argsort(scores)
    scores, outcomes = scores[order], np.array([outcomes[scores == of].mean() for of in scores[order]])
    for num_bins in range(1, max(len(scores), 2)):
        bins = np.arange(len(scores)) * num_bins // len(scores)
        gaps = [(scores - outcomes)[bins == k].sum() for k in range(num_bins)]
        accuracy = [outcomes[bins == k].mean() for k in range(num_bins)]
        if (np.diff(accuracy) < -1e-9).any():
            break
        error = np.abs(gaps).sum() / len(scores)
    return error


@pytest.mark.parametrize(
    ("function", "oracle", "tolerance"),
    [
        (metrics.debiased_error, debiased, 1e-6),
        (metrics.sweep_error, sweep, 1e-6),
        # Their grids, and the search for a width in steps of 1/1024.
        (metrics.smooth_error, smooth, 3e-3),
        (metrics.kde_error, by_kernels, 1e-3),
    ],
)
@slow
@given(st.tuples(scores(), outcomes()))
def test_errors_without_bins(function, oracle, tolerance, arguments):
    def of_numbers(scores, outcomes):
        scores, outcomes = (np.asarray(values, np.float64) for values in (scores, outcomes))
        return oracle(scores.clip(0, 1), outcomes) if len(scores) and not np.isnan(scores).any() else np.nan

    check(function, of_numbers, arguments, lambda s, o: rows(s, o) and fine_outcomes(o), rtol=0, atol=tolerance)


def of_all_outcomes(scores):
    """The mean calibration error over all 2^N outcomes, each as likely as the scores say."""
    if not len(scores) or np.isnan(scores).any():
        return np.nan
    likely = [np.prod(np.where(right, scores, 1 - scores)) for right in itertools.product((0, 1), repeat=len(scores))]
    errors = [error(scores, right, None, 15, "uniform") for right in itertools.product((0, 1), repeat=len(scores))]
    return np.dot(likely, errors)


@pytest.mark.parametrize(
    ("function", "of", "scores_of"),
    [
        (metrics.binned_floor, scores(), lambda values: np.asarray(values, np.float64)),
        (metrics.calibration_floor, probabilities(), lambda values: wide(values).max(axis=-1, initial=-np.inf)),
        # Drawn, not counted: only its range is looked at here.
        (metrics.classwise_calibration_floor, probabilities(), None),
    ],
)
@settings(max_examples=20)
@given(st.data())
def test_floors(function, of, scores_of, data):
    (values, fine), (draws, draws_are_fine) = data.draw(st.tuples(of, odd(5, (0, False), (2.5, False))))
    if not (fine and draws_are_fine):
        with pytest.raises(ValueError, match="must"):
            function(values, draws=draws)
        return
    found = function(values, draws=draws)
    if scores_of:
        np.testing.assert_allclose(found.mean, of_all_outcomes(scores_of(values)), rtol=1e-6, atol=1e-9)
    else:
        missing = len(values) == 0 or np.isnan(wide(values)).any()
        assert np.isnan(found).all() if missing else 0 <= found.mean <= found.p95 + 1e-9 <= 1
