"""From raw images to logits: a network together with the normalisation of its data.

`variables` has three collections: `params` and `batch_stats` of the network, and `normalization`, the mean and scale
of the training images. Normalising inside the function lets attacks work on raw pixels in [0, 1].
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from arada import inputs

Variables = Mapping[str, Mapping]


def unit_range(images: jax.Array) -> jax.Array:
    """uint8 images to float32 in [0, 1]; float images as they are. Raises ValueError for any other dtype."""
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images are uint8, or float in [0, 1], not {inputs.described(images)}; convert them to uint8")
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images.astype(jnp.float32)


def normalize(normalization: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
    """What the network sees of raw images [B, H, W, C]: (image - mean) / scale, both broadcast."""
    return (unit_range(images) - normalization["mean"]) / normalization["scale"]


def logits_fn(model: nn.Module) -> Callable[[Variables, jax.Array], jax.Array]:
    """The classifier as a pure function (variables, images [B, H, W, C]) -> logits [B, Z], on running statistics."""

    def logits(variables: Variables, images: jax.Array) -> jax.Array:
        weights = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
        return model.apply(weights, normalize(variables["normalization"], images), train=False)

    return logits
