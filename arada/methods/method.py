"""The interface of all methods, and what they are given.

A method is a value: its fields never change. What it learns from the validation set is a separate pytree, which goes
into every step as an argument, the same on all devices, and into the checkpoint.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

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
class Method(abc.ABC):
    """Turns a batch into losses, and may learn from the validation set after every epoch. By default it has no state.

    num_subsets, num_classes: R and Z.
    """

    num_subsets: int
    num_classes: int

    def init(self) -> Any:
        """The initial state: a pytree of arrays."""
        return ()

    @abc.abstractmethod
    def loss(
        self, network: Network, images: jax.Array, batch: Batch, learnt: Any, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict]:
        """Losses float32[B], logits [B, Z] and batch_stats of one device's part of a batch.

        Args:
          network: the network with the weights of this step.
          images: float32[B, H, W, C], augmented and normalised.
          batch: label, subset and example_id, int32[B] each.
          learnt: what `init` and `update` return.
          key: of this step, the same on all devices.
        """

    def update(self, learnt: Any, validation: Validation, epoch: int) -> Any:
        """The state after this 0-based epoch."""
        del validation, epoch
        return learnt

    def scalars(self, learnt: Any) -> dict[str, float]:
        """Scalars for the log, by name."""
        del learnt
        return {}

    def describe(self, learnt: Any, epoch: int) -> str:
        """A line for the log after this 0-based epoch; empty if there is nothing to say."""
        del learnt, epoch
        return ""
