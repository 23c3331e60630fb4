"""What each prediction is worth: accuracy, likelihood and squared error, and sums that do not lose precision."""

import jax
import jax.numpy as jnp
import numpy as np

from arada import inputs
from arada.inputs import Array

# Rows that are added one by one. A million float32 numbers added so are off by a hundredth.
_BLOCK = 256


def checked(probabilities: Array, labels: Array, mask: Array | None) -> tuple[jax.Array, jax.Array, Array | None]:
    """Probabilities float32[N, Z], NaN in rows whose label is out of range under jit; labels; mask."""
    probabilities, labels, mask = inputs.probabilities_and_labels(probabilities, labels, mask)
    probabilities, labels = jnp.asarray(probabilities, jnp.float32), jnp.asarray(labels)
    is_class = (labels >= 0) & (labels < probabilities.shape[-1])
    return jnp.where(is_class[:, None], probabilities, jnp.nan), labels, mask


def total(values: jax.Array) -> jax.Array:
    """The sum over the first axis, by blocks, then by blocks of blocks."""
    while len(values) > _BLOCK:
        padded = jnp.pad(values, ((0, -len(values) % _BLOCK), *((0, 0),) * (values.ndim - 1)))
        values = jnp.sum(padded.reshape(-1, _BLOCK, *values.shape[1:]), axis=1)
    return jnp.sum(values, axis=0)


def totals(values: jax.Array, bins: jax.Array, num_bins: int) -> jax.Array:
    """The sum of values float32[N] in each of K bins."""
    block = max(_BLOCK, num_bins // 16)  # many bins hold few rows each, and a block has a place for all of them
    cells = jnp.arange(len(values), dtype=jnp.int32) // block * num_bins + bins
    blocks = max(-(-len(values) // block), 1)
    return total(jax.ops.segment_sum(values, cells, blocks * num_bins).reshape(blocks, num_bins))


def mean(values: Array, mask: Array | None) -> jax.Array:
    """The mean of values float32[N] that the mask marks; NaN if it marks none."""
    values = jnp.asarray(values, jnp.float32)
    # An empty mask gives NaN: the mean of nothing is not 0.
    count = len(values) if mask is None else jnp.sum(mask)
    return total(values if mask is None else jnp.where(mask, values, 0)) / jnp.asarray(count, jnp.float32)


def confidence_and_correct(probabilities: Array, labels: Array) -> tuple[jax.Array, jax.Array]:
    """Probability of the predicted class, float32[N], and whether that class is right, bool[N].

    A row with NaN has the confidence NaN, and is not right.
    """
    return traced_confidence_and_correct(*checked(probabilities, labels, None)[:2])


def traced_confidence_and_correct(probabilities: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`confidence_and_correct` of arguments that have been checked."""
    confidence = jnp.max(probabilities, axis=-1)
    return confidence, (jnp.argmax(probabilities, axis=-1) == labels) & ~jnp.isnan(confidence)


def accuracy(probabilities: Array, labels: Array, mask: Array | None = None) -> jax.Array:
    """Fraction of examples whose most probable class is the label."""
    probabilities, labels, mask = checked(probabilities, labels, mask)
    confidence, correct = traced_confidence_and_correct(probabilities, labels)
    return mean(jnp.where(jnp.isnan(confidence), jnp.nan, correct), mask)


def negative_log_likelihood(probabilities: Array, labels: Array, mask: Array | None = None) -> jax.Array:
    """Mean of -log p(label) in nats; probabilities are floored at float32's smallest normal number."""
    probabilities, labels, mask = checked(probabilities, labels, mask)
    of_label = jnp.take_along_axis(probabilities, labels[:, None], axis=-1)[:, 0]
    of_label = jnp.where(jnp.isnan(probabilities).any(axis=-1), jnp.nan, of_label)
    return mean(-jnp.log(jnp.maximum(of_label, jnp.finfo(jnp.float32).tiny)), mask)


def brier_score(probabilities: Array, labels: Array, mask: Array | None = None) -> jax.Array:
    """Squared error to the one-hot label, summed over classes, mean over examples: between 0 and 2."""
    probabilities, labels, mask = checked(probabilities, labels, mask)
    one_hot = jax.nn.one_hot(labels, probabilities.shape[-1], dtype=jnp.float32)
    return mean(jnp.sum(jnp.square(probabilities - one_hot), axis=-1), mask)


def subset_means(values: Array, subset: Array, num_subsets: int) -> np.ndarray:
    """Mean of `values` [N] within each of R subsets, float64[R]; NaN where a subset is empty."""
    num_subsets = inputs.positive_count("num_subsets", num_subsets)
    values = np.asarray(inputs.numbers("values", values, (None,)), np.float64)
    subset = np.asarray(inputs.whole_numbers("subset", subset, ("values", values), num_subsets))
    count = np.bincount(subset, minlength=num_subsets)
    return np.bincount(subset, weights=values, minlength=num_subsets) / np.where(count, count, np.nan)


def known(*values: np.ndarray) -> bool:
    """Whether there are any values, and none is NaN."""
    return all(of.size and not np.isnan(of).any() for of in values)
