"""Cross-entropy with soft labels, and the interface of all methods.

A method is a value: its fields never change. What it learns from the validation set is a separate pytree, which goes
into every step as an argument, the same on all devices, and into the checkpoint.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from arada import soft_labels as soft
from arada.data.splits import Batch


class Network(NamedTuple):
    """The network inside a step, as methods may call it, on normalised images [B, H, W, C].

    forward: images -> (logits [B, Z], batch_stats) in training mode; gradients flow to the weights.
    logits: images -> logits [B, Z] on running statistics; the weights are constants.
    normalization: {"mean", "scale"}, which turned pixels in [0, 1] into these images.
    """

    forward: Callable[[jax.Array], tuple[jax.Array, dict]]
    logits: Callable[[jax.Array], jax.Array]
    normalization: dict


class Validation(NamedTuple):
    """The validation set after an epoch: values of each of M images, and means over each of R subsets."""

    confidence: np.ndarray
    correct: np.ndarray
    subset_confidence: np.ndarray
    subset_accuracy: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftLabels:
    """Cross-entropy with the soft label of each image's subset: vanilla, label smoothing, AdaLS and AR-AdaLS.

    num_subsets, num_classes: R and Z.
    epsilon: smoothing at the start.
    alpha: ((first epoch, learning rate of eq. (3)), ...); empty if soft labels stay fixed.
    shrinkage: how much subsets share what they learn, see `arada.soft_labels.shrink`; 0 is the paper's rule.
    """

    num_subsets: int
    num_classes: int
    epsilon: float = 0.0
    alpha: tuple[tuple[int, float], ...] = ()
    shrinkage: float = 0.0

    def init(self) -> Any:
        """The initial state, before the first epoch."""
        return soft.init(self.num_subsets, self.num_classes, self.epsilon)

    def loss(
        self, network: Network, images: jax.Array, batch: Batch, learnt: Any, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict]:
        """Losses float32[B], logits [B, Z] and batch_stats of one device's part of a batch.

        Args:
          network: the network with the weights of this step.
          images: float32[B, H, W, C], augmented and normalised.
          batch: label, subset and example_id, int32[B] each.
          learnt: the state that `init` and `update` return.
          key: of this step, the same on all devices.
        """
        del key
        logits, batch_stats = network.forward(images)
        return soft.cross_entropy(learnt, batch["subset"], batch["label"], logits), logits, batch_stats

    def update(self, learnt: Any, validation: Validation, epoch: int) -> Any:
        """The state after this 0-based epoch."""
        if not self.alpha:
            return learnt
        rate, confidence = rate_at(self.alpha, epoch), validation.subset_confidence
        if self.shrinkage:
            error = validation.confidence - validation.correct
            images = len(error) // self.num_subsets
            gap = soft.shrink(confidence - validation.subset_accuracy, error, images, self.shrinkage)
            confidence = validation.subset_accuracy + gap
        return soft.update(learnt, confidence, validation.subset_accuracy, rate)

    def scalars(self, learnt: Any) -> dict[str, float]:
        """Scalars of the state by name, for the log."""
        return {f"soft_label/subset_{r:02}": float(p) for r, p in enumerate(learnt.p_correct)}

    def describe(self, learnt: Any, epoch: int) -> str:
        """A line on the state after this 0-based epoch; empty if it never changes."""
        table = " ".join(f"{p:.3f}" for p in learnt.p_correct)
        return f"soft labels after epoch {epoch + 1}, least robust first: {table}" if self.alpha else ""


def rate_at(alpha: tuple[tuple[int, float], ...], epoch: int) -> float:
    """The paper's alpha at a 0-based epoch, from ((first epoch, alpha), ...), the first of them 0."""
    return [value for first, value in alpha if first <= epoch][-1]
