"""Cross-entropy with a penalty on logits that are too far apart: two relatives of label smoothing."""

import dataclasses

import jax
import jax.numpy as jnp

from arada.methods.soft_labels import SoftLabels


def unmasked(logits: jax.Array) -> jax.Array:
    """Logits float32[B, Z] in which masked classes, -inf, get the largest logit, so that they cost nothing."""
    values = logits.astype(jnp.float32)
    return jnp.where(values == -jnp.inf, jnp.max(values, axis=-1, keepdims=True), values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MbLS(SoftLabels):
    """Margin-based label smoothing: cross-entropy + weight * mean over classes of max(0, max logit - logit - margin).

    margin: the largest distance of logits that costs nothing.
    weight: the paper's lambda.

    Source: Liu et al. 2022 and its code, whose defaults these are.
    """

    margin: float = 10.0
    weight: float = 0.1

    def loss(self, network, images, batch, learnt, key):
        losses, logits, batch_stats = super().loss(network, images, batch, learnt, key)
        values = unmasked(logits)
        below = jnp.max(values, axis=-1, keepdims=True) - values
        penalty = jnp.mean(jax.nn.relu(below - self.margin), axis=-1)
        return losses + self.weight * penalty, logits, batch_stats


@dataclasses.dataclass(frozen=True, kw_only=True)
class ACLS(SoftLabels):
    """Adaptive and conditional label smoothing: the predicted class pays for its logit, the others for their distance.

    The loss is cross-entropy + weight * (on_predicted * max(0, max logit - margin)^2 + on_others * mean over the other
    classes of max(0, max logit - logit - margin)^2); no gradient flows through the maximum of the second term.

    margin: the largest logit, and distance of logits, that cost nothing.
    weight: of both terms.
    on_predicted, on_others: the paper's lambda_1 and lambda_2.

    Source: the code of Park et al. 2023, with its settings.
    """

    margin: float = 10.0
    weight: float = 0.1
    on_predicted: float = 1.0
    on_others: float = 0.1

    def loss(self, network, images, batch, learnt, key):
        losses, logits, batch_stats = super().loss(network, images, batch, learnt, key)
        values = unmasked(logits)
        largest = jnp.max(values, axis=-1)
        too_high = jax.nn.relu(largest - self.margin) ** 2
        # 0 at the predicted class itself, so that the sum is over the others.
        too_far = jax.nn.relu(jax.lax.stop_gradient(largest)[:, None] - values - self.margin) ** 2
        others = jnp.sum(too_far, axis=-1) / (self.num_classes - 1)
        penalty = self.on_predicted * too_high + self.on_others * others
        return losses + self.weight * penalty, logits, batch_stats
