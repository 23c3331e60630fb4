"""Soft labels that follow validation calibration: equations (1)-(4) and the update of Algorithm 1.

The state holds R numbers, `p_correct[r]`, the probability that the soft label of subset `r` gives to the correct
class. Everything else follows from them:

    state = soft_labels.init(num_subsets=10, num_classes=10)
    loss = soft_labels.cross_entropy(state, subset, label, logits).mean()
    ...                                                     # one epoch later, from the validation set by subset:
    state = soft_labels.update(state, confidence, accuracy, learning_rate=0.005)

Vanilla training is R = 1 with epsilon = 0, label smoothing is R = 1 with a fixed epsilon, AdaLS is R = 1 with
updates, AR-AdaLS is R = 10 with updates: one step, four states.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from arada import inputs
from arada.inputs import Array


@flax.struct.dataclass
class SoftLabelState:
    """The soft labels of R subsets: `p_correct` float32[R], each in [1/Z, 1]; Z is static."""

    p_correct: Array
    num_classes: int = flax.struct.field(pytree_node=False)


def init(num_subsets: int, num_classes: int, epsilon: float = 0.0) -> SoftLabelState:
    """R equal soft labels with smoothing `epsilon` (eq. 2); `epsilon=0` is Algorithm 1's start, the one-hot label.

    Raises ValueError unless num_subsets >= 1, num_classes >= 2 and 0 <= epsilon <= 1.
    """
    num_subsets, num_classes = (
        inputs.positive_count(name, value)
        for name, value in (("num_subsets", num_subsets), ("num_classes", num_classes))
    )
    if num_classes < 2 or not 0 <= epsilon <= 1:
        raise ValueError(f"need num_classes >= 2 and 0 <= epsilon <= 1, not {num_classes} and {epsilon}")
    p_correct = 1 - epsilon + epsilon / num_classes
    return SoftLabelState(jnp.full((num_subsets,), p_correct, jnp.float32), num_classes)


def smoothing(state: SoftLabelState) -> jax.Array:
    """The smoothing epsilon float32[R] of each subset (eq. 4). Raises ValueError for a p_correct outside [1/Z, 1]."""
    z = state.num_classes
    return (_p_correct(state) - 1) * z / (1 - z)


def targets(state: SoftLabelState, subset: Array, label: Array) -> jax.Array:
    """The soft label float32[B, Z] of each example (eq. 1).

    Args:
      state: the soft labels.
      subset: int[B], in 0..R-1.
      label: int[B], in 0..Z-1.

    Raises ValueError for other shapes and dtypes, and for concrete values out of range; under jit those give NaN.
    """
    p_correct = _p_correct(state)
    label = inputs.numbers("label", label, (None,))
    subset = inputs.whole_numbers("subset", subset, ("label", label), len(p_correct))
    label = inputs.whole_numbers("label", label, ("subset", subset), state.num_classes)
    is_known = (label >= 0) & (label < state.num_classes) & (subset >= 0) & (subset < len(p_correct))
    # Under jit alone some may not be: a loss of NaN is seen, a loss of another class is not.
    epsilon = jnp.where(is_known, smoothing(state)[subset], jnp.nan)[:, None]
    return (1 - epsilon) * jax.nn.one_hot(label, state.num_classes, dtype=jnp.float32) + epsilon / state.num_classes


def cross_entropy(state: SoftLabelState, subset: Array, label: Array, logits: Array) -> jax.Array:
    """Cross-entropy float32[B] between soft labels and `logits` [B, Z] (the loss of Algorithm 1, by example).

    `subset` and `label` as in `targets`. A class with a logit of -inf costs nothing where its target is 0.
    """
    return cross_entropy_with(targets(state, subset, label), logits)


def cross_entropy_with(targets: Array, logits: Array) -> jax.Array:
    """Cross-entropy float32[B] between any `targets` [B, Z] and `logits` [B, Z]."""
    logits = inputs.class_scores("logits", logits)
    targets = jnp.asarray(inputs.numbers("targets", targets, logits.shape), jnp.float32)
    log_probabilities = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    # 0 times the -inf of a masked class would be NaN.
    return -jnp.sum(jnp.where(targets == 0, 0, targets * log_probabilities), axis=-1)


def update(state: SoftLabelState, confidence: Array, accuracy: Array, learning_rate: float) -> SoftLabelState:
    """One step of eq. (3): over-confident subsets get softer labels. Clipped to [1/Z, 1].

    Args:
      state: the soft labels of this epoch.
      confidence: float[R], mean probability of the predicted class in each validation subset.
      accuracy: float[R], fraction of correct predictions in each validation subset.
      learning_rate: the paper's alpha.

    A subset without validation examples has NaN for both means, and keeps its soft label. Raises ValueError for other
    shapes, and for a concrete accuracy outside [0, 1] or gap between the two beyond 1.

    The paper's interval is open at 1/Z; at 1/Z itself the label is uniform, which is harmless.
    """
    p_correct = _p_correct(state)
    confidence = jnp.asarray(inputs.numbers("confidence", confidence, p_correct.shape), jnp.float32)
    accuracy = inputs.numbers("accuracy", accuracy, p_correct.shape, low=0, high=1 + inputs.ROUNDING)
    accuracy = jnp.asarray(accuracy, jnp.float32)
    gap = confidence - accuracy
    inputs.check_range("confidence - accuracy", gap, -1 - inputs.ROUNDING, 1 + inputs.ROUNDING)
    rate = jnp.asarray(inputs.numbers("learning_rate", learning_rate, (), low=0, high=1e9), jnp.float32)
    moved = jnp.clip(p_correct - rate * gap, 1 / state.num_classes, 1)
    no_evidence = jnp.isnan(confidence) & jnp.isnan(accuracy)
    return dataclasses.replace(state, p_correct=jnp.where(no_evidence, p_correct, moved))


def shrink(gap: Array, error: Array, images: int, strength: float = 1.0) -> np.ndarray:
    """The gaps of R subsets, shrunk towards their mean by as much as sampling explains their spread: float64[R].

    Few validation images make a subset's gap noisy, and eq. (3) accumulates the noise, because the images stay the
    same. Each deviation from the mean gap is multiplied by max(0, 1 - strength * s^2 / v) (empirical Bayes): v is the
    variance of the R gaps, s^2 their sampling variance. Not in the paper.

    Args:
      gap: float[R], confidence minus accuracy in each validation subset.
      error: float[M], confidence minus correctness of each validation image; subsets are of equal size.
      images: M / R, at least 2.
      strength: 0 changes nothing; 1 is the estimate; a very large number makes all gaps the same, as in AdaLS.

    Raises ValueError for other shapes and numbers.

    Source: Efron & Morris 1973, the positive-part rule with estimated variances.
    """
    one = 1 + inputs.ROUNDING
    gap = np.asarray(inputs.numbers("gap", gap, (None,), low=-one, high=one), np.float64)
    error = np.asarray(inputs.numbers("error", error, (None,), low=-one, high=one), np.float64)
    if inputs.positive_count("images", images) < 2 or not len(gap) or not strength >= 0:
        raise ValueError(f"need 2 images or more, a gap and strength >= 0, not {images}, {len(gap)} and {strength}")
    mean, spread = gap.mean(), gap.var(ddof=1) if len(gap) > 1 else 0.0
    within = max(np.mean(error**2) - np.mean(gap**2), 0.0) * images / (images - 1)
    kept = max(1 - strength * within / images / spread, 0.0) if spread else 0.0
    return mean + kept * (gap - mean)


def _p_correct(state: SoftLabelState) -> jax.Array:
    limits = {"low": 1 / state.num_classes - inputs.ROUNDING, "high": 1 + inputs.ROUNDING}
    return jnp.asarray(inputs.numbers("p_correct", state.p_correct, (None,), **limits), jnp.float32)
