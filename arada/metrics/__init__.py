"""Calibration, accuracy and stability of predicted probabilities.

Every function takes NumPy or JAX arrays: `probabilities` float[N, Z] with rows that sum to 1, `labels` int[N] in
0..Z-1, and some functions `mask` bool[N], which selects the examples that count. Results are fractions, never
percentages. Functions that return a jax.Array can be jitted.

Wrong shapes and dtypes raise ValueError, and so do concrete labels and probabilities that are out of range; under jit
such labels give NaN. NaN gives NaN, or ValueError if the result cannot represent it. Empty input gives NaN.
"""

from arada.metrics.calibration import (
    BINNINGS,
    binned_error,
    classwise_calibration_error,
    expected_calibration_error,
    kde_calibration_error,
    kde_error,
    reliability,
    smooth_calibration_error,
    smooth_error,
)
from arada.metrics.floors import (
    Floor,
    binned_floor,
    calibration_floor,
    classwise_calibration_floor,
    debiased_calibration_error,
    debiased_error,
    sweep_calibration_error,
    sweep_error,
)
from arada.metrics.scores import accuracy, brier_score, confidence_and_correct, negative_log_likelihood, subset_means
from arada.metrics.stability import (
    VARIANCES,
    auroc,
    entropy,
    example_variance,
    false_positive_rate,
    prediction_variance,
    risk_coverage,
)

__all__ = [
    "BINNINGS",
    "VARIANCES",
    "Floor",
    "accuracy",
    "auroc",
    "binned_error",
    "binned_floor",
    "brier_score",
    "calibration_floor",
    "classwise_calibration_error",
    "classwise_calibration_floor",
    "confidence_and_correct",
    "debiased_calibration_error",
    "debiased_error",
    "entropy",
    "example_variance",
    "expected_calibration_error",
    "false_positive_rate",
    "kde_calibration_error",
    "kde_error",
    "negative_log_likelihood",
    "prediction_variance",
    "reliability",
    "risk_coverage",
    "smooth_calibration_error",
    "smooth_error",
    "subset_means",
    "sweep_calibration_error",
    "sweep_error",
]
