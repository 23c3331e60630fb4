"""The part of calibration errors that chance explains: floors, and errors with their bias removed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from arada import inputs
from arada.inputs import Array
from arada.metrics import calibration
from arada.metrics import scores as parts


class Floor(NamedTuple):
    """The calibration error of a perfectly calibrated network on as many images: mean and 95th percentile."""

    mean: float
    p95: float


def calibration_floor(
    probabilities: Array, *, num_bins: int = 15, binning: str = "uniform", draws: int = 1000, seed: int = 0
) -> Floor:
    """The floor of `expected_calibration_error`, if each prediction of float[N, Z] is right with its confidence."""
    probabilities = inputs.class_scores("probabilities", probabilities)
    confidence = np.max(np.asarray(probabilities, np.float32), axis=-1)
    return binned_floor(confidence, num_bins=num_bins, binning=binning, draws=draws, seed=seed)


def binned_floor(
    scores: Array, *, num_bins: int = 15, binning: str = "uniform", draws: int = 1000, seed: int = 0
) -> Floor:
    """The floor of `binned_error` of `scores` [N] in [0, 1], if outcomes have these probabilities.

    The mean is exact: in each bin the number of right predictions is Poisson binomial. The percentile takes `draws`
    independent draws of these numbers. NaN if a score is NaN or there are none. Raises ValueError for other scores.
    Unlike in `binned_error`, equal scores in several bins of equal mass do not share outcomes, which raises the floor.
    """
    draws = inputs.positive_count("draws", draws)
    scores = np.asarray(inputs.numbers("scores", scores, (None,), low=0, high=1 + inputs.ROUNDING), np.float64)
    if not parts.known(scores):
        return Floor(np.nan, np.nan)
    scores = np.minimum(scores, 1)
    bins = np.asarray(
        calibration.bins_of(jnp.asarray(scores, jnp.float32), np.ones(len(scores), bool), num_bins, binning)
    )
    rng, mean, drawn = np.random.default_rng(seed), 0.0, np.zeros(draws)
    for in_bin in np.split(scores[np.argsort(bins, kind="stable")], np.cumsum(np.bincount(bins))[:-1]):
        if len(in_bin):
            right, chance = _poisson_binomial(in_bin)
            gap = np.abs(right - in_bin.sum())
            mean += gap @ chance
            drawn += rng.choice(gap, draws, p=chance / chance.sum())
    return Floor(float(mean / len(scores)), float(np.quantile(drawn, 0.95) / len(scores)))


def _poisson_binomial(chances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and probabilities of the number of successes in N independent trials of `chances` [N].

    Inverts the characteristic function on an interval that misses a probability below 1e-12 (Bernstein's inequality).
    """
    count, mean, deviation = len(chances), chances.sum(), np.sqrt(np.sum(chances * (1 - chances)))
    reach = int(8 * deviation + 20)
    lowest = max(0, int(mean) - reach)
    length = min(count - lowest, 2 * reach) + 1
    turn = 1 - np.exp(2j * np.pi / length * np.arange(length // 2 + 1))
    transform = np.ones(len(turn), complex)
    for start in range(0, count, 1024):  # in blocks: all trials at once take gigabytes
        transform *= np.prod(1 - chances[start : start + 1024, None] * turn, axis=0)
    values = lowest + np.arange(length)
    return values, np.maximum(np.fft.irfft(transform.conj(), length)[values % length], 0)


def classwise_calibration_floor(
    probabilities: Array, *, num_bins: int = 15, binning: str = "uniform", draws: int = 1000, seed: int = 0
) -> Floor:
    """The floor of `classwise_calibration_error`, if labels are drawn from the probabilities float[N, Z].

    Takes `draws` draws of all N labels; 1,000 need half a minute and 500 MB for 25,000 images of 1,000 classes. NaN if
    a probability is NaN or there are none.
    """
    draws = inputs.positive_count("draws", draws)
    probabilities = inputs.class_scores("probabilities", probabilities)
    inputs.check_range("probabilities", probabilities, 0, 1 + inputs.ROUNDING)
    probabilities = np.asarray(probabilities, np.float64)
    count, classes = probabilities.shape
    if not parts.known(probabilities):
        return Floor(np.nan, np.nan)
    by_class = jax.vmap(lambda scores: calibration.bins_of(scores, jnp.ones(count, bool), num_bins, binning), 1, 1)
    cells = (np.asarray(by_class(jnp.asarray(probabilities, jnp.float32))) + num_bins * np.arange(classes)).ravel()
    expected = np.bincount(cells, probabilities.ravel(), num_bins * classes)
    # The rows' cumulative sums in one array: image i's label is the position of i + u, u uniform in [0, 1).
    sums = np.cumsum(probabilities, axis=1)
    sums = (sums / sums[:, -1:] + np.arange(count)[:, None]).ravel()
    rng, errors = np.random.default_rng(seed), np.empty(draws)
    for draw in range(draws):
        drawn = np.searchsorted(sums, np.arange(count) + rng.random(count), side="right")
        errors[draw] = np.abs(np.bincount(cells[drawn], minlength=num_bins * classes) - expected).sum()
    errors /= count * classes
    return Floor(float(errors.mean()), float(np.quantile(errors, 0.95)))


def debiased_calibration_error(
    probabilities: Array, labels: Array, *, num_bins: int = 15, binning: str = "uniform", norm: int = 1
) -> float:
    """The expected calibration error minus its estimated bias: see `debiased_error`."""
    confidence, correct = parts.confidence_and_correct(probabilities, labels)
    return debiased_error(confidence, correct, num_bins=num_bins, binning=binning, norm=norm)


def debiased_error(
    scores: Array, outcomes: Array, *, num_bins: int = 15, binning: str = "uniform", norm: int = 1
) -> float:
    """Calibration error of `scores` [N] in [0, 1] against `outcomes` [N] in {0, 1}, minus its estimated bias.

    Args:
      scores: float[N].
      outcomes: [N] in [0, 1].
      num_bins: K.
      binning: as in `expected_calibration_error`.
      norm: 1 subtracts the average increase of the binned error when each bin's accuracy is drawn again from a normal
        distribution with its standard error. This removes two fifths of the bias of a calibrated network and almost
        all bias of others; the result may be below 0. 2 is the square root of the mean squared gap minus its bias, or
        0 if this is negative; bins of one image count as calibrated.

    NaN if a score or an outcome is NaN or there are none.

    Source: Kumar, Liang & Ma 2019, section 5, and their code; an integral replaces their 1,000 normal draws.
    """
    if norm not in (1, 2):
        raise ValueError(f"norm must be 1 or 2, not {norm!r}")
    scores, outcomes, _ = inputs.scores_and_outcomes(scores, outcomes)
    scores, outcomes = np.asarray(scores, np.float64), np.asarray(outcomes, np.float64)
    calibration.check_bins(num_bins, binning)
    if not parts.known(scores, outcomes):
        return np.nan
    mask = jnp.ones(len(scores), bool)
    bins = np.asarray(calibration.bins_of(jnp.asarray(scores, jnp.float32), mask, num_bins, binning))
    if binning == "quantile":
        shared = calibration.tied_means(jnp.asarray(scores, jnp.float32), jnp.asarray(outcomes, jnp.float32), mask)
        outcomes = np.asarray(shared, np.float64)
    count = np.bincount(bins, minlength=num_bins)
    total = np.where(count, count, 1)
    gap = np.bincount(bins, scores - outcomes, num_bins) / total
    accuracy = np.bincount(bins, outcomes, num_bins) / total
    spread = accuracy * (1 - accuracy)
    if norm == 2:
        squares = np.where(count > 1, np.square(gap) - spread / np.maximum(count - 1, 1), 0)
        return float(np.sqrt(np.maximum(count @ squares / len(scores), 0)))
    error = np.sqrt(spread / total)
    # E|X| of a normal X around the gap.
    z = gap / np.where(error > 0, error, 1)
    folded = error * np.sqrt(2 / np.pi) * np.exp(-np.square(z) / 2) + gap * (2 * special.ndtr(z) - 1)
    return float(count @ (2 * np.abs(gap) - np.where(error > 0, folded, np.abs(gap))) / len(scores))


def sweep_calibration_error(probabilities: Array, labels: Array, *, norm: int = 1) -> float:
    """Calibration error with the most bins of equal mass whose accuracy rises with confidence: see `sweep_error`."""
    return sweep_error(*parts.confidence_and_correct(probabilities, labels), norm=norm)


def sweep_error(scores: Array, outcomes: Array, *, norm: int = 1) -> float:
    """Calibration error of `scores` [N] in [0, 1] against `outcomes` [N] in {0, 1}; the data choose the bins.

    The number of bins of equal mass grows from 1 until the mean outcome falls from one bin to the next; the last number
    before that is used. Equal scores share their mean outcome. NaN if a score is NaN or there are none.

    Args:
      scores: float[N].
      outcomes: [N] in [0, 1].
      norm: 1 for the mean gap, 2 (the source's default) for the root of the mean squared gap.

    Source: Roelofs et al. 2022, ECE_sweep, and their code.
    """
    if norm not in (1, 2):
        raise ValueError(f"norm must be 1 or 2, not {norm!r}")
    scores, outcomes, _ = inputs.scores_and_outcomes(scores, outcomes)
    scores, outcomes = np.asarray(scores, np.float64), np.asarray(outcomes, np.float64)
    if not parts.known(scores, outcomes):
        return np.nan
    values, ties, count = np.unique(scores, return_inverse=True, return_counts=True)
    shared = (np.bincount(ties, outcomes) / count)[np.sort(ties)]
    sums = np.stack([np.cumsum(np.concatenate([[0], rows])) for rows in (np.repeat(values, count), shared)])
    total, chosen = len(scores), np.nan
    for num_bins in range(1, max(total, 2)):  # fewer bins than examples, as in their code
        edges = -(-np.arange(num_bins + 1) * total // num_bins)
        size = np.diff(edges)
        confidence, accuracy = np.diff(sums[:, edges]) / size
        # Differences of cumulative sums are rounded: equal accuracies may seem to fall.
        if np.any(np.diff(accuracy) < -1e-9):
            break
        chosen = (size @ np.abs(confidence - accuracy) ** norm / total) ** (1 / norm)
    return float(chosen)
