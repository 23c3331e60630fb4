"""What turns a batch into a loss.

A method is a pure function (forward, images, batch, soft_labels, key) -> (losses float32[B], logits [B, Z],
batch_stats), where forward(images) -> (logits, batch_stats) runs the network in training mode on normalised and
augmented `images`, and `batch` holds label, subset and example_id.
"""

from collections.abc import Callable

import jax

from arada import soft_labels as soft
from arada.data.splits import Batch

Forward = Callable[[jax.Array], tuple[jax.Array, dict]]
Method = Callable[[Forward, jax.Array, Batch, soft.SoftLabelState, jax.Array], tuple[jax.Array, jax.Array, dict]]


def soft_label_cross_entropy(forward, images, batch, soft_labels, key):
    """Cross-entropy with the soft label of each image's subset: vanilla, label smoothing, AdaLS and AR-AdaLS."""
    del key
    logits, batch_stats = forward(images)
    return soft.cross_entropy(soft_labels, batch["subset"], batch["label"], logits), logits, batch_stats
