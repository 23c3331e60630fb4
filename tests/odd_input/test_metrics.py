"""Odd input to scores and to what else confidence is good for gives the value of a NumPy oracle, or ValueError."""

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from odd import (
    SUBSETS,
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
from oracles import correctness, masked

from arada import inputs, metrics


def nll(p, y, mask):
    p = wide(p)
    of_label = np.where(np.isnan(p).any(axis=-1), np.nan, p[np.arange(len(p)), np.asarray(y, int)])
    return masked(-np.log(np.maximum(of_label, np.finfo(np.float32).tiny)), mask)


def brier(p, y, mask):
    p = wide(p)
    return masked(((p - np.eye(p.shape[-1])[np.asarray(y, int)]) ** 2).sum(axis=-1), mask)


MASKED = {
    metrics.accuracy: lambda p, y, mask: masked(correctness(p, y)[1], mask),
    metrics.negative_log_likelihood: nll,
    metrics.brier_score: brier,
}


@pytest.mark.parametrize("function", MASKED, ids=lambda function: function.__name__)
@slow
@given(st.tuples(probabilities(), whole(), masks()))
def test_metrics_of_labels(function, arguments):
    check(function, MASKED[function], arguments, fits_masked)


@slow
@given(st.tuples(probabilities(), whole()))
def test_confidence_and_correct(arguments):
    def oracle(p, y):
        confidence, correct = correctness(p, y)
        return confidence, np.nan_to_num(correct)

    check(metrics.confidence_and_correct, oracle, arguments, labels_in_range)


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
        variance = np.where(np.isnan(p).any(axis=-1), np.nan, variance)
        return variance, variance.mean() if len(variance) else np.nan

    def found(p, y):
        p = inputs.as_array(p)
        p = p if p.dtype.kind in "OUc" else wide(p)
        runs = np.stack([p, np.roll(p, 1, axis=-1) if p.ndim else p])
        return metrics.example_variance(runs, y, of), metrics.prediction_variance(runs, y, of)

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
