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

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


@flax.struct.dataclass
class SoftLabelState:
    """The soft labels of R subsets: `p_correct` float32[R], each in [1/Z, 1]; Z is static."""

    p_correct: Array
    num_classes: int = flax.struct.field(pytree_node=False)


def init(num_subsets: int, num_classes: int, epsilon: float = 0.0) -> SoftLabelState:
    """R equal soft labels with smoothing `epsilon` (eq. 2); `epsilon=0` is Algorithm 1's start, the one-hot label.

    Raises ValueError unless num_subsets >= 1, num_classes >= 2 and 0 <= epsilon <= 1.
    """
    if num_subsets < 1 or num_classes < 2 or not 0 <= epsilon <= 1:
        raise ValueError(
            f"need num_subsets >= 1, num_classes >= 2 and 0 <= epsilon <= 1, "
            f"not {num_subsets}, {num_classes} and {epsilon}"
        )
    p_correct = 1 - epsilon + epsilon / num_classes
    return SoftLabelState(jnp.full((num_subsets,), p_correct, jnp.float32), num_classes)


def smoothing(state: SoftLabelState) -> jax.Array:
    """The smoothing epsilon float32[R] of each subset (eq. 4)."""
    z = state.num_classes
    return (jnp.asarray(state.p_correct) - 1) * z / (1 - z)


def targets(state: SoftLabelState, subset: Array, label: Array) -> jax.Array:
    """The soft label float32[B, Z] of each example (eq. 1), from `subset` int32[B] in 0..R-1 and `label` int32[B]."""
    epsilon = smoothing(state)[subset][..., None]
    return (1 - epsilon) * jax.nn.one_hot(label, state.num_classes) + epsilon / state.num_classes


def cross_entropy(state: SoftLabelState, subset: Array, label: Array, logits: Array) -> jax.Array:
    """Cross-entropy float32[B] between soft labels and `logits` [B, Z] (the loss of Algorithm 1, by example)."""
    log_probabilities = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    return -jnp.sum(targets(state, subset, label) * log_probabilities, axis=-1)


def update(state: SoftLabelState, confidence: Array, accuracy: Array, learning_rate: float) -> SoftLabelState:
    """One step of eq. (3): over-confident subsets get softer labels. Clipped to [1/Z, 1].

    Args:
      state: the soft labels of this epoch.
      confidence: float[R], mean probability of the predicted class in each validation subset.
      accuracy: float[R], fraction of correct predictions in each validation subset.
      learning_rate: the paper's alpha.

    The paper's interval is open at 1/Z; at 1/Z itself the label is uniform, which does no harm.
    """
    gap = jnp.asarray(confidence, jnp.float32) - jnp.asarray(accuracy, jnp.float32)
    p_correct = jnp.clip(state.p_correct - learning_rate * gap, 1 / state.num_classes, 1)
    return state.replace(p_correct=p_correct)


def shrink(gap: Array, error: Array, images: int, strength: float = 1.0) -> np.ndarray:
    """The gaps of R subsets, shrunk towards their mean by as much as sampling explains their spread: float64[R].

    Few validation images make a subset's gap noisy, and eq. (3) adds the noise up, epoch after epoch, for the images
    stay the same. Empirical Bayes keeps of each deviation from the mean gap the share 1 - strength * s^2 / v, at least
    0: v is the variance of the R gaps, s^2 the part of it that the choice of images makes. Not in the paper.

    Args:
      gap: float[R], confidence minus accuracy in each validation subset.
      error: float[M], confidence minus correctness of each validation image; subsets are of equal size.
      images: M / R, at least 2.
      strength: 0 leaves gaps as they are; 1 is the estimate; endlessly much makes all gaps the same, as in AdaLS.

    Source: Efron & Morris 1973, the positive-part rule with estimated variances.
    """
    gap, error = np.asarray(gap, np.float64), np.asarray(error, np.float64)
    mean, spread = gap.mean(), gap.var(ddof=1) if len(gap) > 1 else 0.0
    within = max(np.mean(error**2) - np.mean(gap**2), 0.0) * images / (images - 1)
    kept = max(1 - strength * within / images / spread, 0.0) if spread else 0.0
    return mean + kept * (gap - mean)
