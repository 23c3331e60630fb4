"""What the oracles of several metrics share, in float64 and by loops."""

import numpy as np
from odd import wide


def masked(values, mask):
    values = np.asarray(values, np.float64)
    values = values if mask is None else values[np.asarray(mask)]
    return values.mean() if len(values) else np.nan


def correctness(p, y):
    p = wide(p)
    confidence = p.max(axis=-1, initial=-np.inf)
    return confidence, np.where(np.isnan(confidence), np.nan, p.argmax(axis=-1) == np.asarray(y, int))


def in_bins(scores, outcomes, num_bins, binning):
    """Scores and outcomes of each bin, which may be empty; in bins of equal mass equal scores share their outcome."""
    if binning == "uniform":
        bins = np.minimum((scores * num_bins).astype(int), num_bins - 1)
    else:
        outcomes = np.array([outcomes[scores == of].mean() for of in scores])
        bins = np.empty(len(scores), int)
        bins[np.argsort(scores, kind="stable")] = np.arange(len(scores)) * num_bins // len(scores)
    return [(scores[bins == k], outcomes[bins == k]) for k in range(num_bins)]


def error(scores, outcomes, mask, num_bins, binning):
    scores, outcomes = (np.asarray(of, np.float64) for of in (scores, outcomes))
    kept = np.ones(len(scores), bool) if mask is None else np.asarray(mask)
    scores, outcomes = scores[kept], outcomes[kept]
    if not len(scores) or np.isnan(scores).any():
        return np.nan
    return sum(abs(np.sum(s - o)) for s, o in in_bins(scores, outcomes, num_bins, binning)) / len(scores)
