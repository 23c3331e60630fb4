"""Calibration, accuracy and stability of predicted probabilities.

Every function takes NumPy or JAX arrays: `probabilities` float[N, Z] whose rows sum to 1, `labels` int[N] in 0..Z-1,
and where it says so `mask` bool[N], which counts only the examples it marks. Results are fractions, never percentages.
What returns a jax.Array can be jitted.

Wrong shapes and dtypes raise ValueError, and so do labels and probabilities out of range where they are concrete; under
jit such labels give NaN. NaN gives NaN, or ValueError where a result has no place for it. No examples give NaN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import signal, special, stats
from sklearn import metrics as sklearn_metrics

from arada import inputs
from arada.inputs import Array

BINNINGS = ("uniform", "quantile")
VARIANCES = ("predicted_class", "true_class", "own_confidence", "all_classes")
# float32 cannot tell more bins apart.
MOST_BINS = 2**15
# Rows that are added one by one. A million float32 numbers added so are off by a hundredth.
_BLOCK = 256


def _checked(probabilities: Array, labels: Array, mask: Array | None) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Probabilities float32[N, Z], NaN in rows whose label is out of range under jit; labels; mask."""
    probabilities, labels, mask = inputs.probabilities_and_labels(probabilities, labels, mask)
    probabilities, labels = jnp.asarray(probabilities, jnp.float32), jnp.asarray(labels)
    is_class = (labels >= 0) & (labels < probabilities.shape[-1])
    return jnp.where(is_class[:, None], probabilities, jnp.nan), labels, mask


def _total(values: jax.Array) -> jax.Array:
    """The sum over the first axis, by blocks, then by blocks of blocks."""
    while len(values) > _BLOCK:
        padded = jnp.pad(values, ((0, -len(values) % _BLOCK), *((0, 0),) * (values.ndim - 1)))
        values = jnp.sum(padded.reshape(-1, _BLOCK, *values.shape[1:]), axis=1)
    return jnp.sum(values, axis=0)


def _totals(values: jax.Array, bins: jax.Array, num_bins: int) -> jax.Array:
    """The sum of values float32[N] in each of K bins."""
    block = max(_BLOCK, num_bins // 16)  # many bins hold few rows each, and a block has a place for all of them
    cells = jnp.arange(len(values), dtype=jnp.int32) // block * num_bins + bins
    blocks = max(-(-len(values) // block), 1)
    return _total(jax.ops.segment_sum(values, cells, blocks * num_bins).reshape(blocks, num_bins))


def _mean(values: Array, mask: Array | None) -> jax.Array:
    values = jnp.asarray(values, jnp.float32)
    # An empty mask gives NaN: the mean of nothing is not 0.
    count = len(values) if mask is None else jnp.sum(mask)
    return _total(values if mask is None else jnp.where(mask, values, 0)) / jnp.asarray(count, jnp.float32)


def confidence_and_correct(probabilities: Array, labels: Array) -> tuple[jax.Array, jax.Array]:
    """Probability of the predicted class, float32[N], and whether that class is right, bool[N].

    A row with NaN has the confidence NaN, and is not right.
    """
    return _confidence_and_correct(*_checked(probabilities, labels, None)[:2])


def _confidence_and_correct(probabilities: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    confidence = jnp.max(probabilities, axis=-1)
    return confidence, (jnp.argmax(probabilities, axis=-1) == labels) & ~jnp.isnan(confidence)


def accuracy(probabilities: Array, labels: Array, mask: Array | None = None) -> jax.Array:
    """Fraction of examples whose most probable class is the label."""
    probabilities, labels, mask = _checked(probabilities, labels, mask)
    confidence, correct = _confidence_and_correct(probabilities, labels)
    return _mean(jnp.where(jnp.isnan(confidence), jnp.nan, correct), mask)


def negative_log_likelihood(probabilities: Array, labels: Array, mask: Array | None = None) -> jax.Array:
    """Mean of -log p(label) in nats; probabilities are floored at float32's smallest normal number."""
    probabilities, labels, mask = _checked(probabilities, labels, mask)
    of_label = jnp.take_along_axis(probabilities, labels[:, None], axis=-1)[:, 0]
    of_label = jnp.where(jnp.isnan(probabilities).any(axis=-1), jnp.nan, of_label)
    return _mean(-jnp.log(jnp.maximum(of_label, jnp.finfo(jnp.float32).tiny)), mask)


def brier_score(probabilities: Array, labels: Array, mask: Array | None = None) -> jax.Array:
    """Squared error to the one-hot label, summed over classes, mean over examples: between 0 and 2."""
    probabilities, labels, mask = _checked(probabilities, labels, mask)
    one_hot = jax.nn.one_hot(labels, probabilities.shape[-1], dtype=jnp.float32)
    return _mean(jnp.sum(jnp.square(probabilities - one_hot), axis=-1), mask)


def _bins(scores: Array, mask: Array, num_bins: int, binning: str) -> jax.Array:
    """The bin, int32[N], of each score in [0, 1]."""
    _check_bins(num_bins, binning)
    if binning == "uniform":
        # [lower, upper), the last bin closed: 1.0 belongs to it and 0.0 to the first.
        return jnp.clip(jnp.floor(scores * num_bins).astype(jnp.int32), 0, num_bins - 1)
    order = jnp.argsort(jnp.where(mask, scores, jnp.inf))
    # Row r of n goes to r * K // n; that product may not fit into 32 bits.
    count, edges = jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1), jnp.arange(1, num_bins, dtype=jnp.int32)
    begins = edges * (count // num_bins) - (-edges * (count % num_bins)) // num_bins
    rows = jnp.arange(len(scores), dtype=jnp.int32)
    return jnp.zeros_like(rows).at[order].set(jnp.searchsorted(begins, rows, side="right").astype(jnp.int32))


def _check_bins(num_bins: int, binning: str) -> None:
    inputs.positive_count("num_bins", num_bins, MOST_BINS)
    if binning not in BINNINGS:
        raise ValueError(f"binning is one of {BINNINGS}, not {binning!r}")


def _shared(scores: jax.Array, outcomes: jax.Array, mask: jax.Array) -> jax.Array:
    """For each row float32[N], the mean outcome of all rows that have its score.

    Where equal scores fall into several bins, the order of the rows would say which outcome falls where.
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
    """Calibration error of `scores` [N] in [0, 1] against `outcomes` [N] in {0, 1}: the sum both ECEs below share."""
    scores, outcomes, mask = inputs.scores_and_outcomes(scores, outcomes, mask)
    return _binned_error(scores, outcomes, mask, num_bins, binning)


def _binned_error(scores: Array, outcomes: Array, mask: Array | None, num_bins: int, binning: str) -> jax.Array:
    scores, outcomes = jnp.asarray(scores, jnp.float32), jnp.asarray(outcomes, jnp.float32)
    mask = jnp.ones(scores.shape, bool) if mask is None else jnp.asarray(mask)
    bins = _bins(scores, mask, num_bins, binning)
    outcomes = outcomes if binning == "uniform" else _shared(scores, outcomes, mask)
    gaps = _totals(jnp.where(mask, scores - outcomes, 0), bins, num_bins)
    return jnp.sum(jnp.abs(gaps)) / jnp.sum(mask).astype(jnp.float32)


def expected_calibration_error(
    probabilities: Array, labels: Array, mask: Array | None = None, *, num_bins: int = 15, binning: str = "uniform"
) -> jax.Array:
    """Expected calibration error (section 3): mean over bins of |accuracy - confidence|, weighted by their counts.

    Args:
      probabilities: float[N, Z].
      labels: int[N].
      mask: bool[N] or None.
      num_bins: K. The paper gives no number; 15 is what the scripts it builds on use.
      binning: "uniform" for equal width, last bin closed; "quantile" for equal mass, where equal confidences that fall
        into several bins share their accuracy: the order of the examples does not count.

    Source: Guo et al. 2017, equation 3.
    """
    probabilities, labels, mask = _checked(probabilities, labels, mask)
    return _binned_error(*_confidence_and_correct(probabilities, labels), mask, num_bins, binning)


def classwise_calibration_error(
    probabilities: Array, labels: Array, mask: Array | None = None, *, num_bins: int = 15, binning: str = "uniform"
) -> jax.Array:
    """Mean over classes z of the calibration error of p_z against "the label is z" (Kull et al. 2019, section 2)."""
    probabilities, labels, mask = _checked(probabilities, labels, mask)
    is_class = jax.nn.one_hot(labels, probabilities.shape[-1], dtype=jnp.float32)
    by_class = jax.vmap(lambda p, y: _binned_error(p, y, mask, num_bins, binning), in_axes=(1, 1))
    return jnp.mean(by_class(probabilities, is_class))


class Floor(NamedTuple):
    """The calibration error of a perfectly calibrated network on as many images: its mean and its 95th percentile."""

    mean: float
    p95: float


def calibration_floor(
    probabilities: Array, *, num_bins: int = 15, binning: str = "uniform", draws: int = 1000, seed: int = 0
) -> Floor:
    """What `expected_calibration_error` would be if each prediction of float[N, Z] were right with its confidence."""
    probabilities = inputs.class_scores("probabilities", probabilities)
    confidence = np.max(np.asarray(probabilities, np.float32), axis=-1)
    return binned_floor(confidence, num_bins=num_bins, binning=binning, draws=draws, seed=seed)


def binned_floor(
    scores: Array, *, num_bins: int = 15, binning: str = "uniform", draws: int = 1000, seed: int = 0
) -> Floor:
    """What `binned_error` of `scores` [N] in [0, 1] would be with outcomes of these probabilities.

    The mean is exact: in each bin the number of right predictions is Poisson binomial. The percentile takes `draws`
    independent draws of these numbers. NaN where a score is NaN or there is none. Raises ValueError for other scores.
    Equal scores that fall into several bins of equal mass do not share outcomes here, which raises the floor.
    """
    draws = inputs.positive_count("draws", draws)
    scores = np.asarray(inputs.numbers("scores", scores, (None,), low=0, high=1 + inputs.ROUNDING), np.float64)
    if not _known(scores):
        return Floor(np.nan, np.nan)
    scores = np.minimum(scores, 1)
    bins = np.asarray(_bins(jnp.asarray(scores, jnp.float32), np.ones(len(scores), bool), num_bins, binning))
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

    The characteristic function, inverted on an interval beside which lies less than 1e-12 (Bernstein's inequality).
    """
    count, mean, deviation = len(chances), chances.sum(), np.sqrt(np.sum(chances * (1 - chances)))
    reach = int(8 * deviation + 20)
    lowest = max(0, int(mean) - reach)
    length = min(count - lowest, 2 * reach) + 1
    turn = 1 - np.exp(2j * np.pi / length * np.arange(length // 2 + 1))
    transform = np.ones(len(turn), complex)
    for start in range(0, count, 1024):  # all at once would take gigabytes
        transform *= np.prod(1 - chances[start : start + 1024, None] * turn, axis=0)
    values = lowest + np.arange(length)
    return values, np.maximum(np.fft.irfft(transform.conj(), length)[values % length], 0)


def classwise_calibration_floor(
    probabilities: Array, *, num_bins: int = 15, binning: str = "uniform", draws: int = 1000, seed: int = 0
) -> Floor:
    """What `classwise_calibration_error` would be if labels were drawn from the probabilities float[N, Z] themselves.

    Over `draws` draws of all N labels: 1,000 take half a minute and 500 MB for 25,000 images of 1,000 classes.
    NaN where a probability is NaN or there is none.
    """
    draws = inputs.positive_count("draws", draws)
    probabilities = inputs.class_scores("probabilities", probabilities)
    inputs.check_range("probabilities", probabilities, 0, 1 + inputs.ROUNDING)
    probabilities = np.asarray(probabilities, np.float64)
    count, classes = probabilities.shape
    if not _known(probabilities):
        return Floor(np.nan, np.nan)
    of_all = jax.vmap(lambda scores: _bins(scores, jnp.ones(count, bool), num_bins, binning), 1, 1)
    cells = (np.asarray(of_all(jnp.asarray(probabilities, jnp.float32))) + num_bins * np.arange(classes)).ravel()
    expected = np.bincount(cells, probabilities.ravel(), num_bins * classes)
    # The rows' cumulative sums, one after the other: image i's label is where i + u falls.
    until = np.cumsum(probabilities, axis=1)
    until = (until / until[:, -1:] + np.arange(count)[:, None]).ravel()
    rng, errors = np.random.default_rng(seed), np.empty(draws)
    for draw in range(draws):
        drawn = np.searchsorted(until, np.arange(count) + rng.random(count), side="right")
        errors[draw] = np.abs(np.bincount(cells[drawn], minlength=num_bins * classes) - expected).sum()
    errors /= count * classes
    return Floor(float(errors.mean()), float(np.quantile(errors, 0.95)))


def debiased_calibration_error(
    probabilities: Array, labels: Array, *, num_bins: int = 15, binning: str = "uniform", norm: int = 1
) -> float:
    """The expected calibration error less its estimated bias: see `debiased_error`."""
    confidence, correct = confidence_and_correct(probabilities, labels)
    return debiased_error(confidence, correct, num_bins=num_bins, binning=binning, norm=norm)


def debiased_error(
    scores: Array, outcomes: Array, *, num_bins: int = 15, binning: str = "uniform", norm: int = 1
) -> float:
    """Calibration error of `scores` [N] in [0, 1] against `outcomes` [N] in {0, 1}, less its estimated bias.

    Args:
      scores: float[N].
      outcomes: [N] in [0, 1].
      num_bins: K.
      binning: as in `expected_calibration_error`.
      norm: 1 subtracts from the binned error what it gains on average when each bin's accuracy is drawn anew from a
        normal distribution of its standard error. It takes off two fifths of the bias of a calibrated network, may be
        below 0, and is close to unbiased elsewhere. 2 is the square root of the mean squared gap less its bias, 0 where
        that is negative; bins of one image count as calibrated.

    NaN where a score or an outcome is NaN or there is none.

    Source: Kumar, Liang & Ma 2019, section 5, and their code, whose 1,000 normal draws are an integral here.
    """
    if norm not in (1, 2):
        raise ValueError(f"norm must be 1 or 2, not {norm!r}")
    scores, outcomes, _ = inputs.scores_and_outcomes(scores, outcomes)
    scores, outcomes = np.asarray(scores, np.float64), np.asarray(outcomes, np.float64)
    _check_bins(num_bins, binning)
    if not _known(scores, outcomes):
        return np.nan
    mask = np.ones(len(scores), bool)
    bins = np.asarray(_bins(jnp.asarray(scores, jnp.float32), mask, num_bins, binning))
    if binning == "quantile":
        shared = _shared(jnp.asarray(scores, jnp.float32), jnp.asarray(outcomes, jnp.float32), mask)
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


def smooth_calibration_error(probabilities: Array, labels: Array) -> float:
    """Smooth ECE: |accuracy - confidence| after smoothing by a kernel whose width the data choose; no bins.

    Source: Blasiok & Nakkiran 2023, by their package `relplot`.
    """
    return smooth_error(*confidence_and_correct(probabilities, labels))


def smooth_error(scores: Array, outcomes: Array) -> float:
    """Smooth calibration error of `scores` [N] in [0, 1] against `outcomes` [N] in {0, 1}."""
    scores, outcomes, _ = inputs.scores_and_outcomes(scores, outcomes)
    scores, outcomes = np.asarray(scores, np.float64), np.asarray(outcomes, np.float64)
    if not _known(scores, outcomes):
        return np.nan
    from relplot.metrics import smECE  # seaborn: seconds that training must not wait for

    return float(smECE(np.clip(scores, 0, 1), outcomes))


def _known(*values: np.ndarray) -> bool:
    """Whether there are any values, and none is NaN."""
    return all(of.size and not np.isnan(of).any() for of in values)


def kde_calibration_error(probabilities: Array, labels: Array) -> float:
    """Mean of |accuracy - confidence| with densities in place of bins, as Mix-n-Match estimates it: see `kde_error`."""
    return kde_error(*confidence_and_correct(probabilities, labels))


def kde_error(confidence: Array, correct: Array) -> float:
    """Mix-n-Match's calibration error of `confidence` [N] in [0, 1] against `correct` bool[N].

    Densities of the confidence, of all and of correct predictions, come from triweight kernels of one bandwidth, the
    standard deviation of correct predictions' confidence times (2N)^(-1/5), and are reflected at 0 and 1. Where almost
    all confidences are 1 this estimate is not that of bins: compare it only with itself.

    Source: Zhang et al. 2020 and its code; that takes the second class in place of the predicted one where Z = 2.
    """
    confidence, correct, _ = inputs.scores_and_outcomes(confidence, correct)
    confidence, correct = np.clip(np.asarray(confidence, np.float64), 0, 1), inputs.booleans("correct", correct)
    if not _known(confidence):
        return np.nan
    points = np.linspace(-0.6, 1.6, 2**14)
    spacing = points[1] - points[0]
    spread = np.std(confidence[correct]) if correct.any() else 0.0
    # At least a cell of the grid: all predictions may be equally sure.
    bandwidth = max(spread * (2 * len(confidence)) ** -0.2, spacing)

    inside = (points > 0) & (points < 1)
    of_all, of_correct = (_density(values, points, bandwidth) for values in (confidence, confidence[correct]))
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy_at = np.minimum(correct.mean() * of_correct / of_all, 1)
    seen = inside & (np.maximum(of_all, of_correct) > 1e-6) & np.isfinite(accuracy_at)
    gap = np.where(seen, np.abs(points - np.where(seen, accuracy_at, 0)) * of_all, 0)
    return float(np.trapezoid(gap, points) / np.trapezoid(np.where(inside, of_all, 0), points))


def _density(values: np.ndarray, points: np.ndarray, bandwidth: float) -> np.ndarray:
    """Density of `values` in [0, 1] at equally spaced `points`, reflected at 0 and 1; the bandwidth is a deviation."""
    if not len(values):
        return np.zeros_like(points)
    values = np.concatenate([values, np.where(values < 0.5, -values, 2 - values)])
    spacing = points[1] - points[0]
    # Each value is shared between the two points beside it: a convolution is then all that is left.
    place = (values - points[0]) / spacing
    left = np.floor(place).astype(int)
    weights = np.bincount(left, 1 - (place - left), len(points)) + np.bincount(left + 1, place - left, len(points))
    radius = 3 * bandwidth  # a triweight kernel's deviation is a third of its radius
    reach = int(radius / spacing) + 1
    distance = np.arange(-reach, reach + 1) * spacing / radius
    kernel = np.where(np.abs(distance) < 1, 35 / 32 * (1 - np.square(distance)) ** 3, 0) / radius
    density = signal.fftconvolve(weights, kernel, mode="same") / len(values)
    return 2 * np.maximum(density, 0)


def reliability(
    probabilities: Array, labels: Array, *, num_bins: int = 15, binning: str = "uniform"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean confidence and accuracy of each bin, [K] each; NaN where a bin is empty.

    The bins are those of `expected_calibration_error`. Raises ValueError for NaN, which belongs to no bin.
    """
    confidence, correct = confidence_and_correct(probabilities, labels)
    if missing := int(np.isnan(confidence).sum()):
        raise ValueError(f"probabilities are NaN in {missing} of {len(confidence)} rows")
    mask = jnp.ones(len(confidence), bool)
    bins = _bins(confidence, mask, num_bins, binning)
    if binning == "quantile":
        correct = _shared(confidence, correct.astype(jnp.float32), mask)
    return (
        np.bincount(bins, minlength=num_bins),
        subset_means(confidence, bins, num_bins),
        subset_means(correct, bins, num_bins),
    )


def subset_means(values: Array, subset: Array, num_subsets: int) -> np.ndarray:
    """Mean of `values` [N] within each of R subsets, float64[R]; NaN where a subset is empty."""
    num_subsets = inputs.positive_count("num_subsets", num_subsets)
    values = np.asarray(inputs.numbers("values", values, (None,)), np.float64)
    subset = np.asarray(inputs.whole_numbers("subset", subset, ("values", values), num_subsets))
    count = np.bincount(subset, minlength=num_subsets)
    return np.bincount(subset, weights=values, minlength=num_subsets) / np.where(count, count, np.nan)


def prediction_variance(probabilities: Array, labels: Array, of: str = "predicted_class") -> np.ndarray:
    """Variance over M independent runs (section 3.1), averaged over examples: float64 scalar.

    The paper's formula takes one probability p_{m,i} of each run and example and does not say which.

    Args:
      probabilities: float[M, N, Z], M >= 2.
      labels: int[N], needed for "true_class" only.
      of: "predicted_class" of the mean over runs (one class for all runs, so that a change of mind counts in full),
        "true_class", "own_confidence" (each run's maximum), or "all_classes" (summed over the vector).
    """
    variance = example_variance(probabilities, labels, of)
    return np.mean(variance) if len(variance) else np.float64(np.nan)


def example_variance(probabilities: Array, labels: Array, of: str = "predicted_class") -> np.ndarray:
    """The summand of `prediction_variance`: float64[N]."""
    probabilities = inputs.as_array(probabilities)
    if probabilities.ndim != 3 or len(probabilities) < 2:
        raise ValueError(f"the variance needs probabilities of two runs or more, [M, N, Z], not {probabilities.shape}")
    probabilities = inputs.class_scores("probabilities", probabilities, axes=3)
    inputs.check_range("probabilities", probabilities, 0, 1 + inputs.ROUNDING)
    probabilities = np.asarray(probabilities, np.float64)
    if of == "predicted_class":
        of_class = np.argmax(probabilities.mean(axis=0), axis=-1)
    elif of == "true_class":
        of_class = np.asarray(
            inputs.whole_numbers("labels", labels, ("examples", probabilities[0]), probabilities.shape[-1])
        )
    elif of == "own_confidence":
        return probabilities.max(axis=-1).var(axis=0, ddof=1)
    elif of == "all_classes":
        return probabilities.var(axis=0, ddof=1).sum(axis=-1)
    else:
        raise ValueError(f"of is one of {VARIANCES}, not {of!r}")
    of_class = np.take_along_axis(probabilities, of_class[None, :, None], axis=-1)[..., 0]
    return np.where(np.isnan(probabilities).any(axis=(0, 2)), np.nan, of_class.var(axis=0, ddof=1))


def entropy(probabilities: Array) -> np.ndarray:
    """Predictive entropy float64[...] in nats, of probabilities [..., Z] (section 5.5)."""
    probabilities = inputs.as_array(probabilities)
    probabilities = inputs.class_scores("probabilities", probabilities, axes=max(probabilities.ndim, 1))
    inputs.check_range("probabilities", probabilities, 0, 1 + inputs.ROUNDING)
    probabilities = np.asarray(probabilities, np.float64)
    return -np.sum(probabilities * np.log(np.where(probabilities > 0, probabilities, 1)), axis=-1)


def auroc(score: Array, is_positive: Array) -> float:
    """Area under the ROC curve of `score` [N], which should be higher where `is_positive` bool[N].

    NaN where all or none are positive.
    """
    score, is_positive = _detection(score, is_positive)
    if not _known(score[is_positive], score[~is_positive]):
        return np.nan
    return float(sklearn_metrics.roc_auc_score(is_positive, stats.rankdata(score)))  # inf has a rank


def false_positive_rate(score: Array, is_positive: Array, true_positive_rate: float = 0.95) -> float:
    """Share of the others whose `score` [N] reaches the threshold that `true_positive_rate` of the positives reach.

    NaN where all or none are positive.
    """
    if not 0 < true_positive_rate <= 1:
        raise ValueError(f"true_positive_rate must be above 0 and at most 1, not {true_positive_rate}")
    score, is_positive = _detection(score, is_positive)
    if not _known(score[is_positive], score[~is_positive]):
        return np.nan
    positives = np.sort(score[is_positive])[::-1]
    threshold = positives[int(np.ceil(true_positive_rate * len(positives))) - 1]
    return float(np.mean(score[~is_positive] >= threshold))


def _detection(score: Array, is_positive: Array) -> tuple[np.ndarray, np.ndarray]:
    score = np.asarray(inputs.numbers("score", score, (None,)), np.float64)
    return score, inputs.booleans("is_positive", inputs.numbers("is_positive", is_positive, score.shape))


def risk_coverage(confidence: Array, correct: Array) -> tuple[np.ndarray, np.ndarray, float]:
    """Coverage [N], error rate among the most confident examples at that coverage [N], and its mean (AURC).

    Examples of equal confidence share their error rate: their order does not count. Raises ValueError for NaN, which
    has no place in the order. Source: Geifman & El-Yaniv 2017.
    """
    confidence = np.asarray(inputs.numbers("confidence", confidence, (None,)), np.float64)
    wrong = ~inputs.booleans("correct", inputs.numbers("correct", correct, confidence.shape))
    if missing := int(np.isnan(confidence).sum()):
        raise ValueError(f"confidence is NaN in {missing} of {len(confidence)} examples")
    _, of_score, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    share = np.bincount(of_score, weights=wrong, minlength=len(counts)) / counts
    taken = np.arange(1, len(confidence) + 1)
    risk = np.cumsum(np.repeat(share, counts)) / taken
    return taken / len(confidence), risk, float(risk.mean()) if len(risk) else np.nan
