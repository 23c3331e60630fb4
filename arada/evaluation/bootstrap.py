"""Confidence intervals by resampling images: how much of a number, or of a difference, is the choice of test images.

All data sets that show the same images, all methods and all seeds share one set of resamples. Differences between
methods are therefore paired, and a mean over shifted sets resamples an image together with all its corruptions. The
computation is one matrix product: a resample is a vector of counts, a metric is a function of means over images.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from arada.errors import UserError
from arada.evaluation.outcomes import Outcomes

RESAMPLES = 1000
LEVEL = 0.95
# The resampled metrics.
METRICS = ("accuracy", "ece", "nll", "brier")


class Resamples:
    """RESAMPLES draws with replacement from images with these ids, ascending."""

    def __init__(self, example_id: np.ndarray, resamples: int = RESAMPLES, seed: int = 0):
        self._example_id = example_id
        count, rng = len(example_id), np.random.default_rng(seed)
        drawn = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(resamples))
        self._counts = np.stack([counts.astype(np.float32) for counts in drawn])
        self._totals = self._counts.sum(axis=1, keepdims=True)
        # Identifies these resamples.
        self.checksum = [resamples, seed, zlib.crc32(np.ascontiguousarray(example_id).tobytes())]

    def metrics(self, example_id: np.ndarray, outcomes: Outcomes, num_bins: int) -> dict[str, np.ndarray]:
        """Each of METRICS in each resample, float64[RESAMPLES], on all the images or on some of them.

        NaN in resamples that contain none of these images.
        """
        counts, totals = self._counts, self._totals
        if not np.array_equal(example_id, self._example_id):
            at = np.searchsorted(self._example_id, example_id)
            if not np.array_equal(self._example_id.take(at, mode="clip"), example_id):
                raise UserError(
                    "shifted predictions have ids that the test images lack; delete them and evaluate again"
                )
            counts = counts[:, at]
            totals = counts.sum(axis=1, keepdims=True)
        confidence = np.asarray(outcomes.confidence, np.float32)
        # The bins of `metrics.binned_error`.
        bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
        gaps = np.zeros((len(confidence), num_bins), np.float32)
        gaps[np.arange(len(confidence)), bins] = confidence - outcomes.correct
        values = np.column_stack([gaps, outcomes.correct, outcomes.nll, outcomes.brier]).astype(np.float32)
        means = (counts @ values).astype(np.float64) / np.where(totals, totals, np.nan)
        gap, (accuracy, nll, brier) = np.abs(means[:, :num_bins]).sum(axis=1), means[:, num_bins:].T
        return {"accuracy": accuracy, "ece": gap, "nll": nll, "brier": brier}


def interval(estimate: float, resampled: np.ndarray, *, positive: bool = True) -> list[float]:
    """The interval [low, high] of LEVEL for the mean of a metric over test sets of this size; `positive` cuts it at 0.

    A basic bootstrap interval without bias correction: resamples show how far the estimate may be from its mean. The
    mean of an ECE is above the ECE on an infinite test set, the more so the better a method is calibrated; the interval
    is for the measured ECE, with this bias. Source: Davison & Hinkley 1997, section 5.2.

    NaN resamples are ignored: a set with few images is missing from some resamples.
    """
    resampled = resampled[np.isfinite(resampled)]
    low, high = np.quantile(resampled - np.mean(resampled), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    ends = [estimate - high, estimate - low]
    return [float(max(end, 0)) if positive else float(end) for end in ends]


class Sampled(NamedTuple):
    """Metrics by data set and name: the estimate, and its values in all resamples."""

    estimates: dict[str, dict[str, float]]
    resampled: dict[str, dict[str, np.ndarray]]

    def mean(self, names: Sequence[str], metric: str) -> tuple[float, np.ndarray]:
        """(estimate, resampled) of a metric's mean over data sets."""
        estimate = float(np.mean([self.estimates[name][metric] for name in names]))
        return estimate, np.mean([self.resampled[name][metric] for name in names], axis=0)


def unstack(estimates: dict[str, dict[str, float]], names: Sequence[str], resampled: np.ndarray) -> Sampled:
    """The resampled METRICS of the data sets `names` from an array [data sets, METRICS, RESAMPLES]."""
    by_set = zip(names, resampled, strict=True)
    return Sampled(estimates, {name: dict(zip(METRICS, values, strict=True)) for name, values in by_set})


def mean_over_seeds(seeds: Sequence[Sampled]) -> Sampled:
    """The mean over seeds, on the data sets that all seeds have."""
    names = [name for name in seeds[0].resampled if all(name in seed.resampled for seed in seeds)]

    def mean(by_seed):
        return {
            name: {key: np.mean([sets[name][key] for sets in by_seed], axis=0) for key in METRICS} for name in names
        }

    return Sampled(mean([seed.estimates for seed in seeds]), mean([seed.resampled for seed in seeds]))


def intervals(method: Sampled, parts: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[float]]]:
    """{part: {metric: [low, high]}} of the means over the data sets of each part; empty parts are left out."""
    return {
        part: {key: interval(*method.mean(names, key)) for key in METRICS} for part, names in parts.items() if names
    }


def differences(
    method: Sampled, reference: Sampled, parts: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, list[float]]]:
    """{part: {metric: [difference, low, high]}} from a reference, on the data sets that both have."""
    found: dict[str, dict[str, list[float]]] = {}
    for part, names in parts.items():
        common = [name for name in names if name in method.resampled and name in reference.resampled]
        for key in METRICS if common else ():
            estimate, resampled = method.mean(common, key)
            reference_estimate, reference_resampled = reference.mean(common, key)
            difference = estimate - reference_estimate
            ends = interval(difference, resampled - reference_resampled, positive=False)
            found.setdefault(part, {})[key] = [float(difference), *ends]
    return found
