"""mixup: two images and their labels, mixed."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from arada import soft_labels as soft
from arada.attacks.result import per_example
from arada.methods.soft_labels import SoftLabels
from arada.models import BATCH_AXIS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixup(SoftLabels):
    """Cross-entropy of lambda * image + (1 - lambda) * partner with their soft labels mixed in the same way.

    beta: lambda ~ Beta(beta, beta), drawn once per iteration.
    per_example: whether each image draws its own lambda.

    Each image is mixed with its mirror position in the shuffled batch, so that a device exchanges data with one other
    device only. The original draws a permutation.

    Source: Zhang et al. 2018; edward2's ImageNet baseline chooses the same partner.
    """

    beta: float = 0.2
    per_example: bool = False

    def loss(self, network, images, batch, learnt, key):
        """As Method.loss; the logits belong to the mixed images."""
        targets = soft.targets(learnt, batch["subset"], batch["label"])
        partner_images, partner_targets = _backwards((images, targets))
        share = self._share(key, batch["example_id"])
        share_of_image = per_example(share, images) if self.per_example else share
        share_of_target = per_example(share, targets) if self.per_example else share
        mixed = share_of_image * images + (1 - share_of_image) * partner_images
        logits, batch_stats = network.forward(mixed)
        targets = share_of_target * targets + (1 - share_of_target) * partner_targets
        return soft.cross_entropy_with(targets, logits), logits, batch_stats

    def _share(self, key, example_id):
        """lambda: a scalar, or [B]."""
        if not self.per_example:
            return jax.random.beta(key, self.beta, self.beta, dtype=jnp.float32)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, example_id)
        return jax.vmap(lambda key: jax.random.beta(key, self.beta, self.beta, dtype=jnp.float32))(keys)


def _backwards(tree):
    """The global batch in reverse order, divided among the devices as before."""
    last = lax.axis_size(BATCH_AXIS) - 1
    opposite = [(device, last - device) for device in range(last + 1)]
    return jax.tree.map(lambda x: lax.ppermute(x[::-1], BATCH_AXIS, opposite), tree)
