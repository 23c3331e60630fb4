"""Calibration, accuracy and stability of predicted probabilities.

Every function takes NumPy or JAX arrays: `probabilities` float[N, Z] whose rows sum to 1, `labels` int[N], and where
it says so `mask` bool[N], which counts only the examples it marks. Results are fractions, never percentages.
What returns a jax.Array can be jitted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import signal, special
from sklearn import metrics as sklearn_metrics

Array = jax.Array | np.ndarray

BINNINGS = ("uniform", "quantile")
VARIANCES = ("predicted_class", "true_class", "own_confidence", "all_classes")


def _mean(values: Array, mask: Array | None) -> jax.Array:
    values = jnp.asarray(values, jnp.float32)
    if mask is None:
        return jnp.mean(values)
    # An empty mask gives NaN: the mean of nothing is not 0.
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.sum(mask)


def confidence_and_correct(probabilities: Array, labels: Array) -> tuple[jax.Array, jax.Array]:
    """Probability of the predicted class, float32[N], and whether that class is right, bool[N]."""
    probabilities = jnp.asarray(probabilities, jnp.float32)
    return jnp.max(probabilities, axis=-1), jnp.argmax(probabilities, axis=-1) == jnp.asarray(labels)


def accuracy(probabilities: Array, labels: Array, mask: Array | None = None) -> jax.Array:
    """Fraction of examples whose most probable class is the label."""
    return _mean(confidence_and_correct(probabilities, labels)[1], mask)


def negative_log_likelihood(probabilities: Array, labels: Array, mask: Array | None = None) -> jax.Array:
    """Mean of -log p(label) in nats; probabilities are floored at float32's smallest normal number."""
    of_label = jnp.take_along_axis(jnp.asarray(probabilities, jnp.float32), jnp.asarray(labels)[:, None], axis=-1)
    return _mean(-jnp.log(jnp.maximum(of_label[:, 0], jnp.finfo(jnp.float32).tiny)), mask)


def brier_score(probabilities: Array, labels: Array, mask: Array | None = None) -> jax.Array:
    """Squared error to the one-hot label, summed over classes, mean over examples: between 0 and 2."""
    probabilities = jnp.asarray(probabilities, jnp.float32)
    one_hot = jax.nn.one_hot(jnp.asarray(labels), probabilities.shape[-1])
    return _mean(jnp.sum(jnp.square(probabilities - one_hot), axis=-1), mask)


def _bins(scores: Array, mask: Array, num_bins: int, binning: str) -> jax.Array:
    """The bin, int32[N], of each score in [0, 1]."""
    if binning == "uniform":
        # [lower, upper), the last bin closed: 1.0 belongs to it and 0.0 to the first.
        return jnp.clip(jnp.floor(scores * num_bins).astype(jnp.int32), 0, num_bins - 1)
    if binning == "quantile":
        order = jnp.argsort(jnp.where(mask, scores, jnp.inf))
        rank = jnp.zeros(len(scores), jnp.int32).at[order].set(jnp.arange(len(scores), dtype=jnp.int32))
        return jnp.minimum(rank * num_bins // jnp.maximum(jnp.sum(mask), 1), num_bins - 1)
    raise ValueError(f"binning is one of {BINNINGS}, not {binning!r}")


def binned_error(
    scores: Array, outcomes: Array, mask: Array | None = None, *, num_bins: int = 15, binning: str = "uniform"
) -> jax.Array:
    """Calibration error of `scores` [N] in [0, 1] against `outcomes` [N] in {0, 1}: the sum both ECEs below share."""
    scores, outcomes = jnp.asarray(scores, jnp.float32), jnp.asarray(outcomes, jnp.float32)
    mask = jnp.ones(scores.shape, bool) if mask is None else jnp.asarray(mask, bool)
    bins = _bins(scores, mask, num_bins, binning)
    gaps = jax.ops.segment_sum(jnp.where(mask, scores - outcomes, 0), bins, num_bins)
    return jnp.sum(jnp.abs(gaps)) / jnp.sum(mask)


def expected_calibration_error(
    probabilities: Array, labels: Array, mask: Array | None = None, *, num_bins: int = 15, binning: str = "uniform"
) -> jax.Array:
    """Expected calibration error (section 3): mean over bins of |accuracy - confidence|, weighted by their counts.

    Args:
      probabilities: float[N, Z].
      labels: int[N].
      mask: bool[N] or None.
      num_bins: K. The paper gives no number; 15 is what the scripts it builds on use.
      binning: "uniform" for equal width, last bin closed; "quantile" for equal mass, ties in the order given.

    Source: Guo et al. 2017, equation 3.
    """
    confidence, correct = confidence_and_correct(probabilities, labels)
    return binned_error(confidence, correct, mask, num_bins=num_bins, binning=binning)


def classwise_calibration_error(
    probabilities: Array, labels: Array, mask: Array | None = None, *, num_bins: int = 15, binning: str = "uniform"
) -> jax.Array:
    """Mean over classes z of the calibration error of p_z against "the label is z" (Kull et al. 2019, section 2)."""
    probabilities = jnp.asarray(probabilities, jnp.float32)
    is_class = jax.nn.one_hot(jnp.asarray(labels), probabilities.shape[-1])
    by_class = jax.vmap(lambda p, y: binned_error(p, y, mask, num_bins=num_bins, binning=binning), in_axes=(1, 1))
    return jnp.mean(by_class(probabilities, is_class))


class Floor(NamedTuple):
    """The calibration error of a perfectly calibrated network on as many images: its mean and its 95th percentile."""

    mean: float
    p95: float


def calibration_floor(
    probabilities: Array, *, num_bins: int = 15, binning: str = "uniform", draws: int = 1000, seed: int = 0
) -> Floor:
    """What `expected_calibration_error` would be if each prediction of float[N, Z] were right with its confidence."""
    return binned_floor(
        jnp.max(jnp.asarray(probabilities, jnp.float32), axis=-1),
        num_bins=num_bins,
        binning=binning,
        draws=draws,
        seed=seed,
    )


def binned_floor(
    scores: Array, *, num_bins: int = 15, binning: str = "uniform", draws: int = 1000, seed: int = 0
) -> Floor:
    """What `binned_error` of `scores` [N] in [0, 1] would be with outcomes of these probabilities.

    The mean is exact: in each bin the number of right predictions is Poisson binomial. The percentile takes `draws`
    independent draws of these numbers. NaN where a score is NaN or there is none. Raises ValueError for other scores.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or np.any((scores < 0) | (scores > 1)):
        raise ValueError(
            f"scores are probabilities [N] in [0, 1], not {scores.shape}, {scores.min()} to {scores.max()}"
        )
    if not len(scores) or np.isnan(scores).any():
        return Floor(np.nan, np.nan)
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
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or np.any((probabilities < 0) | (probabilities > 1)):
        raise ValueError(f"probabilities are [N, Z] in [0, 1], not {probabilities.shape}")
    count, classes = probabilities.shape
    if not count or np.isnan(probabilities).any():
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
      outcomes: bool[N] or numbers.
      num_bins: K.
      binning: as in `expected_calibration_error`.
      norm: 1 subtracts from the binned error what it gains on average when each bin's accuracy is drawn anew from a
        normal distribution of its standard error. It takes off two fifths of the bias of a calibrated network, may be
        below 0, and is close to unbiased elsewhere. 2 is the square root of the mean squared gap less its bias, 0 where
        that is negative; bins of one image count as calibrated.

    NaN where a score or an outcome is NaN or there is none.

    Source: Kumar, Liang & Ma 2019, section 5, and their code, whose 1,000 normal draws are an integral here.
    """
    scores, outcomes = np.asarray(scores, np.float64), np.asarray(outcomes, np.float64)
    if norm not in (1, 2):
        raise ValueError(f"norm is 1 or 2, not {norm!r}")
    if not len(scores) or np.isnan(scores + outcomes).any():
        return np.nan
    bins = np.asarray(_bins(jnp.asarray(scores, jnp.float32), np.ones(len(scores), bool), num_bins, binning))
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
    from relplot.metrics import smECE  # seaborn: seconds that training must not wait for

    return float(smECE(np.asarray(scores, np.float64), np.asarray(outcomes, np.float64)))


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
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, bool)
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
    """Count, mean confidence and accuracy of each bin, [K] each; NaN where a bin is empty."""
    confidence, correct = (np.asarray(x, np.float64) for x in confidence_and_correct(probabilities, labels))
    bins = np.asarray(_bins(confidence, np.ones(len(confidence), bool), num_bins, binning))
    count = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        sums = (np.bincount(bins, weights=x, minlength=num_bins) for x in (confidence, correct))
        mean_confidence, mean_correct = (total / np.where(count, count, np.nan) for total in sums)
    return count, mean_confidence, mean_correct


def subset_means(values: Array, subset: Array, num_subsets: int) -> np.ndarray:
    """Mean of `values` [N] within each of R subsets, float64[R]; NaN where a subset is empty."""
    subset = np.asarray(subset)
    count = np.bincount(subset, minlength=num_subsets)
    return np.bincount(subset, weights=np.asarray(values, np.float64), minlength=num_subsets) / np.where(
        count, count, np.nan
    )


def prediction_variance(probabilities: Array, labels: Array, of: str = "predicted_class") -> np.ndarray:
    """Variance over M independent runs (section 3.1), averaged over examples: float64 scalar.

    The paper's formula takes one probability p_{m,i} of each run and example and does not say which.

    Args:
      probabilities: float[M, N, Z], M >= 2.
      labels: int[N], needed for "true_class" only.
      of: "predicted_class" of the mean over runs (one class for all runs, so that a change of mind counts in full),
        "true_class", "own_confidence" (each run's maximum), or "all_classes" (summed over the vector).
    """
    return np.mean(example_variance(probabilities, labels, of))


def example_variance(probabilities: Array, labels: Array, of: str = "predicted_class") -> np.ndarray:
    """The summand of `prediction_variance`: float64[N]."""
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 3 or len(probabilities) < 2:
        raise ValueError(f"the variance needs probabilities of two runs or more, [M, N, Z], not {probabilities.shape}")
    if of == "predicted_class":
        of_class = np.argmax(probabilities.mean(axis=0), axis=-1)
    elif of == "true_class":
        of_class = np.asarray(labels)
    elif of == "own_confidence":
        return probabilities.max(axis=-1).var(axis=0, ddof=1)
    elif of == "all_classes":
        return probabilities.var(axis=0, ddof=1).sum(axis=-1)
    else:
        raise ValueError(f"of is one of {VARIANCES}, not {of!r}")
    return np.take_along_axis(probabilities, of_class[None, :, None], axis=-1)[..., 0].var(axis=0, ddof=1)


def entropy(probabilities: Array) -> np.ndarray:
    """Predictive entropy float64[...] in nats, of probabilities [..., Z] (section 5.5)."""
    probabilities = np.asarray(probabilities, np.float64)
    return -np.sum(probabilities * np.log(np.where(probabilities > 0, probabilities, 1)), axis=-1)


def auroc(score: Array, is_positive: Array) -> float:
    """Area under the ROC curve of `score` [N], which should be higher where `is_positive` bool[N]."""
    return float(sklearn_metrics.roc_auc_score(np.asarray(is_positive), np.asarray(score)))


def false_positive_rate(score: Array, is_positive: Array, true_positive_rate: float = 0.95) -> float:
    """Share of the others whose `score` [N] reaches the threshold that `true_positive_rate` of the positives reach."""
    score, is_positive = np.asarray(score), np.asarray(is_positive, bool)
    positives = np.sort(score[is_positive])[::-1]
    threshold = positives[int(np.ceil(true_positive_rate * len(positives))) - 1]
    return float(np.mean(score[~is_positive] >= threshold))


def risk_coverage(confidence: Array, correct: Array) -> tuple[np.ndarray, np.ndarray, float]:
    """Coverage [N], error rate among the most confident examples at that coverage [N], and its mean (AURC).

    Ties in confidence are taken in the order given. Source: Geifman & El-Yaniv 2017.
    """
    order = np.argsort(-np.asarray(confidence), kind="stable")
    taken = np.arange(1, len(order) + 1)
    risk = np.cumsum(~np.asarray(correct, bool)[order]) / taken
    return taken / len(order), risk, float(risk.mean())
