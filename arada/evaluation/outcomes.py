"""The numbers that metrics need from the predictions on one data set: a few an image, for any number of classes.

They come from probabilities, or from a file that holds them in place of logits (`arada.evaluation.predictions`).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from arada import metrics

# Validation metrics by which a sweep may choose; lower is better for all.
CRITERIA = {"nll": "NLL", "ece": "ECE", "ece_debiased": "debiased ECE", "brier": "Brier score"}


class Outcomes(NamedTuple):
    """For N images: `correct` bool[N], the others float32[N]; `classwise_ece` is one number for all images."""

    confidence: np.ndarray
    correct: np.ndarray
    nll: np.ndarray
    brier: np.ndarray
    entropy: np.ndarray
    classwise_ece: float


def from_probabilities(probabilities: np.ndarray, labels: np.ndarray, num_bins: int) -> Outcomes:
    """The outcomes of probabilities float[N, Z] against labels int[N]."""
    probabilities = np.asarray(probabilities, np.float32)
    by_image, classwise = jax.device_get(_by_image(probabilities, labels, num_bins))
    entropy = metrics.entropy(probabilities).astype(np.float32)
    return Outcomes(**by_image, entropy=entropy, classwise_ece=float(classwise))


@functools.partial(jax.jit, static_argnums=2)
def _by_image(probabilities, labels, num_bins):
    confidence, correct = metrics.confidence_and_correct(probabilities, labels)
    by_image = {
        "confidence": confidence,
        "correct": correct,
        "nll": _unreduced(metrics.negative_log_likelihood)(probabilities, labels),
        "brier": _unreduced(metrics.brier_score)(probabilities, labels),
    }
    return by_image, metrics.classwise_calibration_error(probabilities, labels, num_bins=num_bins)


def _unreduced(metric: Callable) -> Callable:
    """The summands of a metric that is a mean over images."""
    return jax.vmap(lambda probabilities, label: metric(probabilities[None], label[None]))


def measure(outcomes: Outcomes, num_bins: int) -> dict[str, float | None]:
    """The metrics of one data set, as fractions; None for a metric that is not finite.

    They include the ECE's floor (mean and 95th percentile) and the debiased ECE.
    """
    # The weights of a calibrator may sum to slightly more than 1.
    confidence, correct = np.minimum(outcomes.confidence, 1), outcomes.correct
    floor = metrics.binned_floor(confidence, num_bins=num_bins)
    values = _binned(confidence, correct, num_bins) | {
        "ece_floor": floor.mean,
        "ece_p95": floor.p95,
        "ece_debiased": metrics.debiased_error(confidence, correct, num_bins=num_bins),
        "accuracy": np.mean(correct),
        "confidence": np.mean(confidence, dtype=np.float64),
        "classwise_ece": outcomes.classwise_ece,
        "nll": np.mean(outcomes.nll, dtype=np.float64),
        "brier": np.mean(outcomes.brier, dtype=np.float64),
        "entropy": np.mean(outcomes.entropy, dtype=np.float64),
        "aurc": metrics.risk_coverage(confidence, correct)[2],
    }
    return {key: float(value) if np.isfinite(value) else None for key, value in values.items()}


def measure_slowly(outcomes: Outcomes, probabilities: np.ndarray, num_bins: int) -> dict[str, float]:
    """Metrics that take longer than all others together: errors without bins, and the floors of the other errors."""
    confidence, correct = np.minimum(outcomes.confidence, 1), outcomes.correct
    equal_mass = metrics.binned_floor(confidence, num_bins=num_bins, binning="quantile")
    # 200 draws are enough, because the mean over classes varies little between draws.
    classwise = metrics.classwise_calibration_floor(np.clip(probabilities, 0, 1), num_bins=num_bins, draws=200)
    return {
        "smooth_ece": metrics.smooth_error(confidence, correct),
        "kde_ece": metrics.kde_error(confidence, correct),
        "ece_quantile_floor": equal_mass.mean,
        "ece_quantile_p95": equal_mass.p95,
        "classwise_ece_floor": classwise.mean,
        "classwise_ece_p95": classwise.p95,
    }


@functools.partial(jax.jit, static_argnums=2)
def _binned(confidence, correct, num_bins):
    error = functools.partial(metrics.binned_error, confidence, correct, num_bins=num_bins)
    return {"ece": error(), "ece_quantile": error(binning="quantile")}
