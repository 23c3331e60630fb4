"""Scores of predictions: accuracy, likelihood and squared error; and sums that do not lose precision."""

import jax
import jax.numpy as jnp
import numpy as np

from arada import inputs
from arada.inputs import Array

# Rows in a block of a sum. Adding a million float32 numbers one by one has an error of a hundredth.
_BLOCK = 256


def checked(probabilities: Array, labels: Array, mask: Array | None) -> tuple[jax.Array, jax.Array, Array | None]:
    """Probabilities float32[N, Z] (NaN in rows with a label that is out of range under jit), labels and mask."""
    probabilities, labels, mask = inputs.probabilities_and_labels(probabilities, labels, mask)
    probabilities, labels = jnp.asarray(probabilities, jnp.float32), jnp.asarray(labels)
    is_class = (labels >= 0) & (labels < probabilities.shape[-1])
    return jnp.where(is_class[:, None], probabilities, jnp.nan), labels, mask


def total(values: jax.Array) -> jax.Array:
    """The sum over the first axis, in blocks of blocks."""
    while len(values) > _BLOCK:
        padded = jnp.pad(values, ((0, -len(values) % _BLOCK), *((0, 0),) * (values.ndim - 1)))
        values = jnp.sum(padded.reshape(-1, _BLOCK, *values.shape[1:]), axis=1)
    return jnp.sum(values, axis=0)


def totals(values: jax.Array, bins: jax.Array, num_bins: int) -> jax.Array:
    """The sum of values float32[N] in each of K bins."""
    block = max(_BLOCK, num_bins // 16)  # larger blocks with many bins, because each block stores all bins
    cells = jnp.arange(len(values), dtype=jnp.int32) // block * num_bins + bins
    blocks = max(-(-len(values) // block), 1)
    return total(jax.ops.segment_sum(values, cells, blocks * num_bins).reshape(blocks, num_bins))


def mean(values: Array, mask: Array | None) -> jax.Array:
    """The mean of values float32[N] that the mask selects; NaN if it selects none."""
    values = jnp.asarray(values, jnp.float32)
    count = len(values) if mask is None else jnp.sum(mask)
    return total(values if mask is None else jnp.where(mask, values, 0)) / jnp.asarray(count, jnp.float32)


def confidence_and_correct(probabilities: Array, labels: Array) -> tuple[jax.Array, jax.Array]:
    """Probability of the predicted class, float32[N], and whether this class is right, bool[N].

    A row with NaN has the confidence NaN and is not right.
    """
    return traced_confidence_and_correct(*checked(probabilities, labels, None)[:2])


def traced_confidence_and_correct(probabilities: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`confidence_and_correct` of checked arguments."""
    confidence = jnp.max(probabilities, axis=-1)
    return confidence, (jnp.argmax(probabilities, axis=-1) == labels) & ~jnp.isnan(confidence)


def accuracy(probabilities: Array, labels: Array, mask: Array | None = None) -> jax.Array:
    """Fraction of examples with the label as most probable class."""
    probabilities, labels, mask = checked(probabilities, labels, mask)
    confidence, correct = traced_confidence_and_correct(probabilities, labels)
    return mean(jnp.where(jnp.isnan(confidence), jnp.nan, correct), mask)


def negative_log_likelihood(probabilities: Array, labels: Array, mask: Array | None = None) -> jax.Array:
    """Mean of -log p(label) in nats, with probabilities of at least float32's smallest normal number."""
    probabilities, labels, mask = checked(probabilities, labels, mask)
    p_label = jnp.take_along_axis(probabilities, labels[:, None], axis=-1)[:, 0]
    p_label = jnp.where(jnp.isnan(probabilities).any(axis=-1), jnp.nan, p_label)
    return mean(-jnp.log(jnp.maximum(p_label, jnp.finfo(jnp.float32).tiny)), mask)


def brier_score(probabilities: Array, labels: Array, mask: Array | None = None) -> jax.Array:
    """Squared error to the one-hot label, summed over classes, mean over examples: between 0 and 2."""
    probabilities, labels, mask = checked(probabilities, labels, mask)
    one_hot = jax.nn.one_hot(labels, probabilities.shape[-1], dtype=jnp.float32)
    return mean(jnp.sum(jnp.square(probabilities - one_hot), axis=-1), mask)


def subset_means(values: Array, subset: Array, num_subsets: int) -> np.ndarray:
    """Mean of `values` [N] within each of R subsets, float64[R]; NaN for an empty subset."""
    num_subsets = inputs.positive_count("num_subsets", num_subsets)
    values = np.asarray(inputs.numbers("values", values, (None,)), np.float64)
    subset = np.asarray(inputs.whole_numbers("subset", subset, ("values", values), num_subsets))
    count = np.bincount(subset, minlength=num_subsets)
    return np.bincount(subset, weights=values, minlength=num_subsets) / np.where(count, count, np.nan)


def known(*values: np.ndarray) -> bool:
    """Whether no array is empty or has NaN."""
    return all(array.size and not np.isnan(array).any() for array in values)
