"""CCAT: the more an image is attacked, the closer its label comes to uniform."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from arada import soft_labels as soft
from arada.attacks.pgd import pgd_linf
from arada.attacks.result import per_example
from arada.methods.soft_labels import SoftLabels
from arada.models import BATCH_AXIS, normalize


@dataclasses.dataclass(frozen=True, kw_only=True)
class CCAT(SoftLabels):
    """Confidence-calibrated adversarial training: every other image is attacked, and trained towards low confidence.

    Its label is (1 - |delta| / radius)^rho times its soft label, the rest uniform; |delta| is the largest change of a
    pixel. Both kinds of image go through the network together, in training mode; the attack is on running statistics.

    radius: the largest |delta|, the paper's epsilon, in units of pixels in [0, 1]. At 0 the method is `SoftLabels`.
    step_size, steps: of `pgd_linf`. The paper's step of 0.025 is longer than its radius of 0.01. CCAT's attack damps
      its momentum, so that 0.025 makes a first step of 0.0025, a quarter of the way; this is our reading.
    rho: the exponent above.

    Source: Stutz et al. 2020 and its code, whose momentum, backtracking, starts and rho the paper does not change.
    """

    radius: float = 0.01
    step_size: float = 0.025
    steps: int = 10
    rho: float = 10.0

    def loss(self, network, images, batch, learnt, key):
        """As Method.loss; the logits belong to the attacked images."""
        delta = self._perturbation(network, images, batch, key)
        logits, batch_stats = network.forward(images + delta / network.normalization["scale"])
        size = jnp.max(jnp.abs(delta), axis=tuple(range(1, delta.ndim)))
        far = jnp.minimum(size / self.radius, 1) if self.radius else jnp.zeros_like(size)
        certainty = per_example((1 - far) ** self.rho, logits)
        targets = soft.targets(learnt, batch["subset"], batch["label"])
        targets = certainty * targets + (1 - certainty) / self.num_classes
        return soft.cross_entropy_with(targets, logits), logits, batch_stats

    def _perturbation(self, network, images, batch, key):
        """The perturbation of the images at odd places of the global batch; 0 at even places."""
        size = len(images)
        # A part of odd size begins at an even or at an odd place. One place too many lies behind the last one; it is
        # clipped when it is read and dropped when it is written.
        first_odd = (lax.axis_index(BATCH_AXIS) * size + 1) % 2
        places = first_odd + 2 * jnp.arange((size + 1) // 2)
        attacked, label, example_id = (
            jnp.take(x, places, axis=0, mode="clip") for x in (images, batch["label"], batch["example_id"])
        )
        mean, scale = network.normalization["mean"], network.normalization["scale"]
        # Where augmentation moved a normalised image, its pixels lie over other pixels' means ("mean_image" alone has
        # one for each pixel) and may leave [0, 1] by their difference. The attack moves them no farther out.
        pixels = attacked * scale + mean
        found = pgd_linf(
            lambda pixels: network.logits(normalize(network.normalization, pixels)),
            pixels,
            label,
            key,
            epsilon=self.radius,
            step_size=self.step_size,
            steps=self.steps,
            example_id=example_id,
        )
        delta = jax.lax.stop_gradient(found.adversarial - pixels)
        return jnp.zeros_like(images).at[places].set(delta, mode="drop")
