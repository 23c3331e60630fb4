"""Calibration after training: maps from logits to probabilities, fitted on a validation set.

All keep the order of an example's classes, and so the accuracy. Logits are float[N, Z], labels int[N] in 0..Z-1, both
with concrete values. A logit of -inf masks a class. Other input raises ValueError: other shapes and dtypes, labels out
of range, NaN, +inf, a label with a masked class, no examples.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from arada import inputs
from arada.inputs import Array

# Bounds of temperatures. Without bounds, logits that classify all images correctly give 0, and logits that are
# independent of the labels give infinity.
BOUNDS = (1e-2, 1e2)
# The bounds of Mix-n-Match's code.
ETS_BOUNDS = (0.05, 5.0)


class Calibrator(NamedTuple):
    """weights[0] * softmax(logits / temperature) + weights[1] * softmax(logits) + weights[2] / Z."""

    temperature: float
    weights: tuple[float, float, float] = (1.0, 0.0, 0.0)

    def __call__(self, logits: Array) -> np.ndarray:
        """Probabilities float64[N, Z]; NaN for a row of logits with NaN, +inf or only -inf."""
        logits = np.asarray(inputs.class_scores("logits", logits), np.float64)
        scaled, plain, uniform = _components(logits, self.temperature)
        return self.weights[0] * scaled + self.weights[1] * plain + self.weights[2] * uniform


def temperature_scaling(logits: Array, labels: Array) -> Calibrator:
    """The temperature with the lowest negative log-likelihood, exactly, or the nearest end of `BOUNDS`.

    The log-likelihood is concave in 1 / T, so its derivative has at most one root.

    Source: Guo et al. 2017.
    """
    logits, labels = _checked(logits, labels)
    label_logits = np.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]

    def slope(log_inverse: float) -> float:
        """The derivative of the mean negative log-likelihood by 1 / T, at 1 / T = exp(log_inverse)."""
        probabilities = special.softmax(np.exp(log_inverse) * logits, axis=-1)
        # For a masked class 0 * -inf would be NaN.
        expected = np.sum(probabilities * np.where(probabilities > 0, logits, 0), axis=-1)
        return float(np.mean(expected - label_logits))

    from scipy import optimize  # a slow import

    hottest, coldest = -np.log(BOUNDS[1]), -np.log(BOUNDS[0])
    if slope(hottest) >= 0:
        return Calibrator(BOUNDS[1])
    if slope(coldest) <= 0:
        return Calibrator(BOUNDS[0])
    return Calibrator(float(np.exp(-optimize.brentq(slope, hottest, coldest, xtol=1e-12))))


def ensemble_temperature_scaling(logits: Array, labels: Array) -> Calibrator:
    """Mix-n-Match's ETS: first fits the temperature, then the three weights, both with the mean squared error.

    The error is between the probabilities of all classes and the one-hot label. The temperature lies in `ETS_BOUNDS`;
    the weights are not negative and sum to 1.

    Source: Zhang et al. 2020 and its code, which takes the squared error; the paper allows others.
    """
    logits, labels = _checked(logits, labels)
    one_hot = np.eye(logits.shape[-1])[labels]

    def error_at(temperature: np.ndarray) -> float:
        return np.mean(np.square(special.softmax(logits / temperature[0], axis=-1) - one_hot))

    from scipy import optimize

    found = optimize.minimize(error_at, [1.0], method="L-BFGS-B", bounds=[ETS_BOUNDS], tol=1e-12)
    temperature = float(found.x[0])
    # With weights that sum to 1 the error is a quadratic form of the three residuals.
    residuals = np.stack([part - one_hot for part in _components(logits, temperature)])
    form = np.einsum("anz,bnz->ab", residuals, residuals) / one_hot.size
    weights = optimize.minimize(
        lambda w: w @ form @ w,
        [1.0, 0.0, 0.0],
        jac=lambda w: 2 * form @ w,
        method="SLSQP",
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: np.sum(w) - 1, "jac": lambda w: np.ones(3)},
        tol=1e-12,
    ).x
    # SLSQP may exceed a bound by a rounding error.
    weights = np.clip(weights, 0, 1)
    return Calibrator(temperature, tuple((weights / weights.sum()).tolist()))


# The names of stored metrics.
BY_NAME = {"temperature": temperature_scaling, "ets": ensemble_temperature_scaling}


def _checked(logits: Array, labels: Array) -> tuple[np.ndarray, np.ndarray]:
    """The checked logits float64[N, Z] and labels int[N]."""
    logits = inputs.class_scores("logits", logits)
    labels = np.asarray(inputs.whole_numbers("labels", labels, ("logits", logits), logits.shape[-1]))
    logits = np.asarray(logits, np.float64)
    if not len(logits):
        raise ValueError("a calibrator needs at least one example")
    if np.isnan(logits).any() or np.isposinf(logits).any():
        raise ValueError("logits must be numbers or -inf, not NaN or inf")
    if masked := int(np.isneginf(logits[np.arange(len(labels)), labels]).sum()):
        raise ValueError(
            f"labels must have logits above -inf, but {masked} of {len(labels)} have not: no temperature can fit them"
        )
    return logits, labels


def _components(logits: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore"):  # inf and NaN give a row of NaN
        plain, scaled = (special.softmax(values, axis=-1) for values in (logits, logits / temperature))
    return scaled, plain, np.full_like(plain, 1 / plain.shape[-1])
