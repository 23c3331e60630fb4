"""Focal loss: one power for all images, powers that follow validation calibration, or a focus on the runner-up."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from arada import soft_labels as soft
from arada.methods.soft_labels import SoftLabels


def focus(gamma: jax.Array, label: jax.Array, logits: jax.Array) -> jax.Array:
    """The factor of the cross-entropy in focal loss, float32[B]; p is the probability of the label.

    (1 - p)^gamma gives less weight to images that are learnt already. Negative powers mean (1 + p)^-gamma, inverse
    focal loss, which gives them more.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    is_label = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
    p = jnp.exp(jnp.sum(jnp.where(is_label, log_probabilities, 0), axis=-1))
    # From the other classes: 1 - p is 0 for a confident network, and the gradient of a power of it is not finite there.
    log_miss = _log_sum(jnp.where(is_label, -jnp.inf, log_probabilities))
    return jnp.exp(jnp.abs(gamma) * jnp.where(gamma < 0, jnp.log1p(p), log_miss))


def _log_sum(values: jax.Array) -> jax.Array:
    """Log of the sum of exponentials over the last axis. If all are -inf (masked), a number whose
    multiples are finite, without a gradient."""
    nothing = jnp.all(values == -jnp.inf, axis=-1)
    return jnp.where(nothing, -1e30, jax.nn.logsumexp(jnp.where(nothing[..., None], 0, values), axis=-1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Focal(SoftLabels):
    """Focal loss: cross-entropy times (1 - p)^gamma. Source: Lin et al. 2017; Mukhoti et al. 2020 for calibration."""

    gamma: float = 3.0

    def loss(self, network, images, batch, learnt, key):
        losses, logits, batch_stats = super().loss(network, images, batch, learnt, key)
        return focus(jnp.float32(self.gamma), batch["label"], logits) * losses, logits, batch_stats


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualFocal(SoftLabels):
    """Dual focal loss: cross-entropy times (1 - p + q)^gamma; q is the largest probability below the label's p.

    gamma: the authors choose it for each network on validation data, and their code has no default. Others who repeat
      their experiments list 5 for ResNet-50 on CIFAR-10, and 2.3 to 6.1 for more networks and data sets.

    Source: Tao et al. 2023 and its code. q is 0 where no class is less probable than the label.
    """

    gamma: float = 5.0

    def loss(self, network, images, batch, learnt, key):
        losses, logits, batch_stats = super().loss(network, images, batch, learnt, key)
        log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
        is_label = jax.nn.one_hot(batch["label"], logits.shape[-1], dtype=bool)
        log_p = jnp.sum(jnp.where(is_label, log_probabilities, 0), axis=-1, keepdims=True)
        below = jnp.where(log_probabilities < log_p, log_probabilities, -jnp.inf)
        runner_up = jnp.max(below, axis=-1, keepdims=True)
        # 1 - p from the other classes, as in `focus`.
        others = jnp.where(is_label, -jnp.inf, log_probabilities)
        log_base = _log_sum(jnp.concatenate([others, runner_up], axis=-1))
        return jnp.exp(self.gamma * log_base) * losses, logits, batch_stats


@flax.struct.dataclass
class AdaFocalState:
    """Soft labels, and by bin of confidence the power `gamma` float32[K]; `edges` float32[K-1] separate the bins."""

    soft_labels: soft.SoftLabelState
    gamma: Any
    edges: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaFocal(SoftLabels):
    """Focal loss whose power depends on p, by bins; the validation set decides the power of each.

    After each epoch a bin's power is multiplied by exp(rate * (confidence - accuracy)), both over its validation
    images; a negative power by the inverse: over-confident bins get a larger power. A power that comes closer to 0 than
    `switch` becomes `switch` of the other sign. Bins hold equally many validation images.

    gamma: the power of all bins at the start; bins then are of equal width.
    num_bins: K.
    rate: the paper's lambda.
    lowest, highest: where powers are clipped.
    switch: the paper's S_th.

    Source: Ghosh et al. 2022 and its code, which closes the bins of validation and of training images on different
    sides, so that many equal confidences can fall into a bin without validation images; here both use one rule.
    """

    gamma: float = 1.0
    num_bins: int = 15
    rate: float = 1.0
    lowest: float = -2.0
    highest: float = 20.0
    switch: float = 0.2

    def init(self):
        edges = np.arange(1, self.num_bins, dtype=np.float32) / np.float32(self.num_bins)
        return AdaFocalState(super().init(), np.full(self.num_bins, self.gamma, np.float32), edges)

    def loss(self, network, images, batch, learnt, key):
        losses, logits, batch_stats = super().loss(network, images, batch, learnt.soft_labels, key)
        p = jnp.take_along_axis(jax.nn.softmax(logits.astype(jnp.float32)), batch["label"][:, None], axis=-1)[:, 0]
        gamma = learnt.gamma[jnp.searchsorted(learnt.edges, p, side="right")]
        return focus(gamma, batch["label"], logits) * losses, logits, batch_stats

    def update(self, learnt, validation, epoch):
        confidence = np.asarray(validation.confidence, np.float32)
        places = np.linspace(0, len(confidence), self.num_bins + 1)[1:-1]
        edges = np.interp(places, np.arange(len(confidence)), np.sort(confidence)).astype(np.float32)
        bins = np.searchsorted(edges, confidence, side="right")
        count = np.bincount(bins, minlength=self.num_bins)
        gaps = np.bincount(bins, confidence - validation.correct.astype(np.float64), minlength=self.num_bins)
        # A bin without images keeps its power.
        change = np.exp(self.rate * gaps / np.maximum(count, 1))
        before = np.asarray(learnt.gamma, np.float64)
        gamma = before * np.where(before > 0, change, 1 / change)
        gamma = np.where(np.abs(gamma) < self.switch, np.where(gamma > 0, -self.switch, self.switch), gamma)
        gamma = np.clip(gamma, self.lowest, self.highest).astype(np.float32)
        return AdaFocalState(super().update(learnt.soft_labels, validation, epoch), gamma, edges)

    def scalars(self, learnt):
        powers = {f"focal_power/bin_{k:02}": float(gamma) for k, gamma in enumerate(learnt.gamma)}
        return super().scalars(learnt.soft_labels) | powers

    def describe(self, learnt, epoch):
        table = " ".join(f"{gamma:.2f}" for gamma in learnt.gamma)
        return f"focal powers after epoch {epoch + 1}, least confident first: {table}"
