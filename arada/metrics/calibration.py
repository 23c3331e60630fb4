"""The distance between confidence and accuracy: calibration errors with bins, smooth, and with kernel densities."""

import jax
import jax.numpy as jnp
import numpy as np

from arada import inputs
from arada.inputs import Array
from arada.metrics import scores as parts

BINNINGS = ("uniform", "quantile")
# float32 cannot represent more bins.
MOST_BINS = 2**15


def bins_of(scores: Array, mask: Array, num_bins: int, binning: str) -> jax.Array:
    """The bin, int32[N], of each score in [0, 1]."""
    check_bins(num_bins, binning)
    if binning == "uniform":
        # [lower, upper), and the last bin includes 1.0.
        return jnp.clip(jnp.floor(scores * num_bins).astype(jnp.int32), 0, num_bins - 1)
    order = jnp.argsort(jnp.where(mask, scores, jnp.inf))
    # Row r of n goes to bin r * K // n, but this product may not fit into 32 bits.
    count, edges = jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1), jnp.arange(1, num_bins, dtype=jnp.int32)
    begins = edges * (count // num_bins) - (-edges * (count % num_bins)) // num_bins
    rows = jnp.arange(len(scores), dtype=jnp.int32)
    return jnp.zeros_like(rows).at[order].set(jnp.searchsorted(begins, rows, side="right").astype(jnp.int32))


def check_bins(num_bins: int, binning: str) -> None:
    """Raises ValueError for an invalid number or kind of bins."""
    inputs.positive_count("num_bins", num_bins, MOST_BINS)
    if binning not in BINNINGS:
        raise ValueError(f"binning must be one of {BINNINGS}, not {binning!r}")


def tied_means(scores: jax.Array, outcomes: jax.Array, mask: jax.Array) -> jax.Array:
    """For each row float32[N], the mean outcome of all rows with the same score.

    Otherwise, if equal scores fall into several bins, the order of the rows would decide the bin of each outcome.
    """
    scores = jnp.where(mask, scores, jnp.inf)
    order = jnp.argsort(scores)
    in_order = scores[order]
    ties = jnp.cumsum(in_order != jnp.roll(in_order, 1), dtype=jnp.int32)  # one number for each score
    outcomes_and_ones = jnp.stack([outcomes[order], jnp.ones_like(outcomes)], axis=-1)
    totals = jax.ops.segment_sum(outcomes_and_ones, ties, len(scores) + 1)
    return jnp.zeros_like(outcomes).at[order].set((totals[:, 0] / totals[:, 1])[ties])


def binned_error(
    scores: Array, outcomes: Array, mask: Array | None = None, *, num_bins: int = 15, binning: str = "uniform"
) -> jax.Array:
    """Calibration error of `scores` [N] in [0, 1] against `outcomes` [N] in {0, 1}, the core of both ECEs below."""
    scores, outcomes, mask = inputs.scores_and_outcomes(scores, outcomes, mask)
    return _binned_error(scores, outcomes, mask, num_bins, binning)


def _binned_error(scores: Array, outcomes: Array, mask: Array | None, num_bins: int, binning: str) -> jax.Array:
    scores, outcomes = jnp.asarray(scores, jnp.float32), jnp.asarray(outcomes, jnp.float32)
    mask = jnp.ones(scores.shape, bool) if mask is None else jnp.asarray(mask)
    bins = bins_of(scores, mask, num_bins, binning)
    outcomes = outcomes if binning == "uniform" else tied_means(scores, outcomes, mask)
    gaps = parts.totals(jnp.where(mask, scores - outcomes, 0), bins, num_bins)
    return jnp.sum(jnp.abs(gaps)) / jnp.sum(mask).astype(jnp.float32)


def expected_calibration_error(
    probabilities: Array, labels: Array, mask: Array | None = None, *, num_bins: int = 15, binning: str = "uniform"
) -> jax.Array:
    """Expected calibration error (section 3): mean over bins of |accuracy - confidence|, weighted by their counts.

    Args:
      probabilities: float[N, Z].
      labels: int[N].
      mask: bool[N] or None.
      num_bins: K. The paper gives no number; the scripts that it builds on use 15.
      binning: "uniform" for bins of equal width, the last one closed; "quantile" for bins of equal mass, where equal
        confidences in several bins share their accuracy, so that the order of the examples does not matter.

    Source: Guo et al. 2017, equation 3.
    """
    probabilities, labels, mask = parts.checked(probabilities, labels, mask)
    return _binned_error(*parts.traced_confidence_and_correct(probabilities, labels), mask, num_bins, binning)


def classwise_calibration_error(
    probabilities: Array, labels: Array, mask: Array | None = None, *, num_bins: int = 15, binning: str = "uniform"
) -> jax.Array:
    """Mean over classes z of the calibration error of p_z against "the label is z" (Kull et al. 2019, section 2)."""
    probabilities, labels, mask = parts.checked(probabilities, labels, mask)
    is_class = jax.nn.one_hot(labels, probabilities.shape[-1], dtype=jnp.float32)
    by_class = jax.vmap(lambda p, y: _binned_error(p, y, mask, num_bins, binning), in_axes=(1, 1))
    return jnp.mean(by_class(probabilities, is_class))


def reliability(
    probabilities: Array, labels: Array, *, num_bins: int = 15, binning: str = "uniform"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean confidence and accuracy of each bin, [K] each; NaN for an empty bin.

    The bins are the bins of `expected_calibration_error`. Raises ValueError for NaN, which belongs to no bin.
    """
    confidence, correct = parts.confidence_and_correct(probabilities, labels)
    if missing := int(np.isnan(confidence).sum()):
        raise ValueError(f"probabilities are NaN in {missing} of {len(confidence)} rows; remove these rows")
    mask = jnp.ones(len(confidence), bool)
    bins = bins_of(confidence, mask, num_bins, binning)
    if binning == "quantile":
        correct = tied_means(confidence, correct.astype(jnp.float32), mask)
    return (
        np.bincount(bins, minlength=num_bins),
        parts.subset_means(confidence, bins, num_bins),
        parts.subset_means(correct, bins, num_bins),
    )


def smooth_calibration_error(probabilities: Array, labels: Array) -> float:
    """Smooth ECE: |accuracy - confidence| after smoothing by a kernel with a width chosen from the data; no bins.

    Source: Blasiok & Nakkiran 2023, computed by their package `relplot`.
    """
    return smooth_error(*parts.confidence_and_correct(probabilities, labels))


def smooth_error(scores: Array, outcomes: Array) -> float:
    """Smooth calibration error of `scores` [N] in [0, 1] against `outcomes` [N] in {0, 1}."""
    scores, outcomes, _ = inputs.scores_and_outcomes(scores, outcomes)
    scores, outcomes = np.clip(np.asarray(scores, np.float64), 0, 1), np.asarray(outcomes, np.float64)
    if not parts.known(scores, outcomes):
        return np.nan
    from relplot.metrics import smECE  # imports seaborn, which takes seconds

    # The package's reflection counts scores on the border of its grid (at least 1,000 cells) by half, which changes the
    # error by up to 15 %. So scores move off the border, and outcomes with them, which keeps the gaps.
    inner = np.clip(scores, 1e-3, 1 - 1e-3)
    return float(smECE(inner, outcomes + inner - scores))


def kde_calibration_error(probabilities: Array, labels: Array) -> float:
    """Mean of |accuracy - confidence| with densities in place of bins, as in Mix-n-Match: see `kde_error`."""
    return kde_error(*parts.confidence_and_correct(probabilities, labels))


def kde_error(confidence: Array, correct: Array) -> float:
    """Mix-n-Match's calibration error of `confidence` [N] in [0, 1] against `correct` bool[N].

    The densities of the confidence, for all and for correct predictions, come from triweight kernels and are reflected
    at 0 and 1. The bandwidth is the standard deviation of correct predictions' confidence times (2N)^(-1/5). If almost
    all confidences are 1 this estimate differs from binned errors: compare it only with itself.

    Source: Zhang et al. 2020 and its code, which for Z = 2 takes the second class in place of the predicted one.
    """
    confidence, correct, _ = inputs.scores_and_outcomes(confidence, correct)
    confidence, correct = np.clip(np.asarray(confidence, np.float64), 0, 1), inputs.booleans("correct", correct)
    if not parts.known(confidence):
        return np.nan
    points = np.linspace(-0.6, 1.6, 2**14)
    spacing = points[1] - points[0]
    spread = np.std(confidence[correct]) if correct.any() else 0.0
    # At least a cell of the grid, because all predictions may have the same confidence.
    bandwidth = max(spread * (2 * len(confidence)) ** -0.2, spacing)

    inside = (points > 0) & (points < 1)
    density, correct_density = (_density(values, points, bandwidth) for values in (confidence, confidence[correct]))
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy_at = np.minimum(correct.mean() * correct_density / density, 1)
    seen = inside & (np.maximum(density, correct_density) > 1e-6) & np.isfinite(accuracy_at)
    gap = np.where(seen, np.abs(points - np.where(seen, accuracy_at, 0)) * density, 0)
    return float(np.trapezoid(gap, points) / np.trapezoid(np.where(inside, density, 0), points))


def _density(values: np.ndarray, points: np.ndarray, bandwidth: float) -> np.ndarray:
    """Density of `values` in [0, 1] at equally spaced `points`, reflected at 0 and 1; the bandwidth is the kernel's
    standard deviation."""
    if not len(values):
        return np.zeros_like(points)
    values = np.concatenate([values, np.where(values < 0.5, -values, 2 - values)])
    spacing = points[1] - points[0]
    # Each value is split between its two neighbouring points; then the density is one convolution.
    place = (values - points[0]) / spacing
    left = np.floor(place).astype(int)
    weights = np.bincount(left, 1 - (place - left), len(points)) + np.bincount(left + 1, place - left, len(points))
    radius = 3 * bandwidth  # a triweight kernel's deviation is a third of its radius
    reach = int(radius / spacing) + 1
    distance = np.arange(-reach, reach + 1) * spacing / radius
    kernel = np.where(np.abs(distance) < 1, 35 / 32 * (1 - np.square(distance)) ** 3, 0) / radius
    from scipy import signal  # a slow import that only this function needs

    density = signal.fftconvolve(weights, kernel, mode="same") / len(values)
    return 2 * np.maximum(density, 0)
