"""Cross-entropy with soft labels that follow validation calibration, equations (1)-(4): the paper's method."""

import dataclasses

import jax

from arada import soft_labels as soft
from arada.data.splits import Batch
from arada.methods.method import Method, Network, Validation


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftLabels(Method):
    """Cross-entropy with the soft label of each image's subset: vanilla, label smoothing, AdaLS and AR-AdaLS.

    It learns a `SoftLabelState`. Other losses of soft labels derive from it.

    epsilon: smoothing at the start.
    alpha: ((first epoch, learning rate of eq. (3)), ...); empty if soft labels stay fixed.
    shrinkage: how much subsets share what they learn, see `arada.soft_labels.shrink`; 0 is the paper's rule.
    """

    epsilon: float = 0.0
    alpha: tuple[tuple[int, float], ...] = ()
    shrinkage: float = 0.0

    def init(self):
        return soft.init(self.num_subsets, self.num_classes, self.epsilon)

    def loss(self, network: Network, images: jax.Array, batch: Batch, learnt, key: jax.Array):
        del key
        logits, batch_stats = network.forward(images)
        return soft.cross_entropy(learnt, batch["subset"], batch["label"], logits), logits, batch_stats

    def update(self, learnt, validation: Validation, epoch: int):
        if not self.alpha:
            return learnt
        confidence = validation.subset_confidence
        if self.shrinkage:
            error = validation.confidence - validation.correct
            images = len(error) // self.num_subsets
            gap = soft.shrink(confidence - validation.subset_accuracy, error, images, self.shrinkage)
            confidence = validation.subset_accuracy + gap
        rate = [value for first, value in self.alpha if first <= epoch][-1]
        return soft.update(learnt, confidence, validation.subset_accuracy, rate)

    def scalars(self, learnt) -> dict[str, float]:
        return {f"soft_label/subset_{r:02}": float(p) for r, p in enumerate(learnt.p_correct)}

    def describe(self, learnt, epoch: int) -> str:
        table = " ".join(f"{p:.3f}" for p in learnt.p_correct)
        return f"soft labels after epoch {epoch + 1}, least robust first: {table}" if self.alpha else ""
