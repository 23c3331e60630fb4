"""Confidence intervals by resampling images: how much of a number, or of a difference, is the choice of test images.

One set of resamples serves all data sets that show the same images, all methods and all seeds. Differences between
methods are therefore paired, and a mean over shifted sets resamples images, not pictures of them. Everything is one
matrix product: a resample is a vector of counts, and every metric here is a function of means over images.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from arada.errors import UserError
from arada.evaluation.outcomes import Outcomes

RESAMPLES = 1000
LEVEL = 0.95
# What is resampled.
METRICS = ("accuracy", "ece", "nll", "brier")


class Resamples:
    """RESAMPLES draws with replacement from images with these ids, ascending."""

    def __init__(self, example_id: np.ndarray, resamples: int = RESAMPLES, seed: int = 0):
        self._example_id = example_id
        count, rng = len(example_id), np.random.default_rng(seed)
        drawn = (np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(resamples))
        self._counts = np.stack([counts.astype(np.float32) for counts in drawn])
        self._totals = self._counts.sum(axis=1, keepdims=True)
        # Tells these resamples from others.
        self.checksum = [resamples, seed, zlib.crc32(np.ascontiguousarray(example_id).tobytes())]

    def metrics(self, example_id: np.ndarray, outcomes: Outcomes, num_bins: int) -> dict[str, np.ndarray]:
        """Each of METRICS in each resample, float64[RESAMPLES], of all the images or of some of them.

        NaN in resamples that hold none of these.
        """
        counts, totals = self._counts, self._totals
        if not np.array_equal(example_id, self._example_id):
            at = np.searchsorted(self._example_id, example_id)
            if not np.array_equal(self._example_id.take(at, mode="clip"), example_id):
                raise UserError("shifted predictions do not belong to the test images; delete them and evaluate again")
            counts = counts[:, at]
            totals = counts.sum(axis=1, keepdims=True)
        confidence = np.asarray(outcomes.confidence, np.float32)
        # The bins of `metrics.binned_error`.
        bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
        gaps = np.zeros((len(confidence), num_bins), np.float32)
        gaps[np.arange(len(confidence)), bins] = confidence - outcomes.correct
        of_images = np.column_stack([gaps, outcomes.correct, outcomes.nll, outcomes.brier]).astype(np.float32)
        means = (counts @ of_images).astype(np.float64) / np.where(totals, totals, np.nan)
        gap, (accuracy, nll, brier) = np.abs(means[:, :num_bins]).sum(axis=1), means[:, num_bins:].T
        return {"accuracy": accuracy, "ece": gap, "nll": nll, "brier": brier}


def interval(estimate: float, resampled: np.ndarray, *, positive: bool = True) -> list[float]:
    """The interval [low, high] of LEVEL for the mean of a metric over test sets of this size; `positive` cuts it at 0.

    A basic bootstrap interval without its correction for bias: resamples tell how far the estimate may be from its
    mean. An ECE's mean is above that of an endless test set, the more so the better a method is calibrated; the
    interval holds the ECE that one measures, bias and all. Source: Davison & Hinkley 1997, section 5.2.

    Resamples that are NaN do not count: few images of a set are in few resamples.
    """
    resampled = resampled[np.isfinite(resampled)]
    low, high = np.quantile(resampled - np.mean(resampled), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    ends = [estimate - high, estimate - low]
    return [float(max(end, 0)) if positive else float(end) for end in ends]


class Sampled(NamedTuple):
    """Metrics by data set and name, each as an estimate and in all resamples."""

    estimates: dict[str, dict[str, float]]
    resampled: dict[str, dict[str, np.ndarray]]

    def mean(self, names: Sequence[str], metric: str) -> tuple[float, np.ndarray]:
        """(estimate, resampled) of a metric's mean over data sets."""
        estimate = float(np.mean([self.estimates[name][metric] for name in names]))
        return estimate, np.mean([self.resampled[name][metric] for name in names], axis=0)


def unstack(estimates: dict[str, dict[str, float]], names: Sequence[str], resampled: np.ndarray) -> Sampled:
    """The resampled METRICS of the data sets `names` from an array [data sets, METRICS, RESAMPLES]."""
    of_sets = zip(names, resampled, strict=True)
    return Sampled(estimates, {name: dict(zip(METRICS, of_set, strict=True)) for name, of_set in of_sets})


def mean_over_seeds(seeds: Sequence[Sampled]) -> Sampled:
    """The mean over seeds, of the data sets that all have."""
    names = [name for name in seeds[0].resampled if all(name in of.resampled for of in seeds)]

    def mean(of_seeds):
        return {name: {key: np.mean([of[name][key] for of in of_seeds], axis=0) for key in METRICS} for name in names}

    return Sampled(mean([of.estimates for of in seeds]), mean([of.resampled for of in seeds]))


def intervals(of: Sampled, parts: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[float]]]:
    """{part: {metric: [low, high]}} of the means over the data sets of each part; parts without any are left out."""
    return {part: {key: interval(*of.mean(names, key)) for key in METRICS} for part, names in parts.items() if names}


def differences(
    of: Sampled, reference: Sampled, parts: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, list[float]]]:
    """{part: {metric: [difference, low, high]}} from a reference, on the data sets that both have."""
    found: dict[str, dict[str, list[float]]] = {}
    for part, names in parts.items():
        common = [name for name in names if name in of.resampled and name in reference.resampled]
        for key in METRICS if common else ():
            (mine, my_resamples), (other, its_resamples) = of.mean(common, key), reference.mean(common, key)
            ends = interval(mine - other, my_resamples - its_resamples, positive=False)
            found.setdefault(part, {})[key] = [float(mine - other), *ends]
    return found
