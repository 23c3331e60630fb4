"""Odd input to every public metric gives the value of a NumPy oracle, or ValueError."""

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


@pytest.mark.parametrize("function", [metrics.smooth_error, metrics.kde_error, metrics.debiased_error])
@settings(max_examples=15)
@given(st.tuples(scores(), outcomes()))
def test_errors_without_bins(function, arguments):
    """Their values have tests of their own: here a number in [0, 1] or NaN."""
    values = [value for value, _ in arguments]
    if all(fine for _, fine in arguments) and rows(*values) and fine_outcomes(values[1]):
        found = function(*values)
        missing = len(values[0]) == 0 or np.isnan(np.asarray(values[0], np.float64)).any()
        least = -1 if function is metrics.debiased_error else 0
        assert np.isnan(found) if missing else least <= found <= 1
    else:
        with pytest.raises(ValueError, match="must"):
            function(*values)


@pytest.mark.parametrize(
    ("function", "of"),
    [
        (metrics.binned_floor, scores()),
        (metrics.calibration_floor, probabilities()),
        (metrics.classwise_calibration_floor, probabilities()),
    ],
)
@settings(max_examples=20)
@given(st.data())
def test_floors(function, of, data):
    """As above."""
    (values, fine), (draws, draws_are_fine) = data.draw(st.tuples(of, odd(5, (0, False), (2.5, False))))
    if fine and draws_are_fine:
        found = function(values, draws=draws)
        missing = len(values) == 0 or np.isnan(wide(values)).any()
        assert np.isnan(found).all() if missing else 0 <= found.mean <= 1
    else:
        with pytest.raises(ValueError, match="must"):
            function(values, draws=draws)
