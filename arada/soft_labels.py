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
