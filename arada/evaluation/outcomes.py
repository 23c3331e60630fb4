"""What metrics need of the predictions on one data set: a few numbers an image, whatever the number of classes.

They come from probabilities, or from a file that holds them in place of logits (`arada.evaluation.predictions`).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from arada import metrics


class Outcomes(NamedTuple):
    """Of N images: `correct` bool[N], the others float32[N], and one number that needs all classes at once."""

    confidence: np.ndarray
    correct: np.ndarray
    nll: np.ndarray
    brier: np.ndarray
    entropy: np.ndarray
    classwise_ece: float


def of(probabilities: np.ndarray, labels: np.ndarray, num_bins: int) -> Outcomes:
    """The outcomes of probabilities float[N, Z] against labels int[N]."""
    probabilities = np.asarray(probabilities, np.float32)
    of_images, classwise = jax.device_get(_of(probabilities, labels, num_bins))
    entropy = metrics.entropy(probabilities).astype(np.float32)
    return Outcomes(**of_images, entropy=entropy, classwise_ece=float(classwise))


@functools.partial(jax.jit, static_argnums=2)
def _of(probabilities, labels, num_bins):
    confidence, correct = metrics.confidence_and_correct(probabilities, labels)
    of_images = {
        "confidence": confidence,
        "correct": correct,
        "nll": _by_image(metrics.negative_log_likelihood)(probabilities, labels),
        "brier": _by_image(metrics.brier_score)(probabilities, labels),
    }
    return of_images, metrics.classwise_calibration_error(probabilities, labels, num_bins=num_bins)


def _by_image(metric: Callable) -> Callable:
    """A mean over images as what it is a mean of."""
    return jax.vmap(lambda probabilities, label: metric(probabilities[None], label[None]))


def measure(outcomes: Outcomes, num_bins: int) -> dict[str, float | None]:
    """The metrics of one data set, fractions; None for what is not known."""
    confidence, correct = outcomes.confidence, outcomes.correct
    values = _binned(confidence, correct, num_bins) | {
        "accuracy": np.mean(correct),
        "confidence": np.mean(confidence, dtype=np.float64),
        "classwise_ece": outcomes.classwise_ece,
        "nll": np.mean(outcomes.nll, dtype=np.float64),
        "brier": np.mean(outcomes.brier, dtype=np.float64),
        "entropy": np.mean(outcomes.entropy, dtype=np.float64),
        "aurc": metrics.risk_coverage(confidence, correct)[2],
    }
    return {key: float(value) if np.isfinite(value) else None for key, value in values.items()}


def kernel_errors(outcomes: Outcomes) -> dict[str, float]:
    """The calibration errors without bins, which take as long as all other metrics together."""
    of = outcomes.confidence, outcomes.correct
    return {"smooth_ece": metrics.smooth_error(*of), "kde_ece": metrics.kde_error(*of)}


@functools.partial(jax.jit, static_argnums=2)
def _binned(confidence, correct, num_bins):
    error = functools.partial(metrics.binned_error, confidence, correct, num_bins=num_bins)
    return {"ece": error(), "ece_quantile": error(binning="quantile")}
