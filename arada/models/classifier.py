"""From raw images to logits: a network together with the normalisation of its data.

`variables` has three collections: `params` and `batch_stats` of the network, and `normalization`, the mean and scale
of the training images. Normalising inside the function lets attacks work on raw pixels in [0, 1].
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from arada import inputs
from arada.inputs import Array
from arada.models.layers import BATCH_AXIS

Variables = Mapping[str, Mapping]


def unit_range(images: Array) -> jax.Array:
    """uint8 images to float32 in [0, 1]; float images as they are. Raises ValueError for any other dtype."""
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be uint8, or float in [0, 1], not {inputs.described(images)}; convert them to uint8"
        )
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images.astype(jnp.float32)


def normalize(normalization: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
    """The network's input for raw images [B, H, W, C]: (image - mean) / scale, both broadcast."""
    return (unit_range(images) - normalization["mean"]) / normalization["scale"]


def logits_fn(model: nn.Module) -> Callable[[Variables, jax.Array], jax.Array]:
    """The classifier as a pure function (variables, images [B, H, W, C]) -> logits [B, Z], on running statistics."""

    def logits(variables: Variables, images: jax.Array) -> jax.Array:
        weights = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
        return model.apply(weights, normalize(variables["normalization"], images), train=False)  # type: ignore[return-value]

    return logits


def check_network(model: nn.Module, image_shape: tuple[int, ...], num_classes: int) -> None:
    """Traces a network on two images, in training and in evaluation, without computing anything.

    Raises ValueError if it cannot be run, has variables that are not trained, or returns anything but logits.
    """
    images = jax.ShapeDtypeStruct((1, 2, *image_shape), jnp.float32)

    def both(variables, images):
        in_training, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return in_training, model.apply(variables, images, train=False)

    try:
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(images.shape[1:]))
        # Batch norm may synchronise over the axis of the devices.
        traced = jax.vmap(both, in_axes=(None, 0), axis_name=BATCH_AXIS)
        logits = jax.eval_shape(traced, variables, images)
    except Exception as error:  # of any kind: the network is foreign code
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"it cannot be run on images of {images.shape[1:]}: {reason}") from None
    if unknown := sorted(variables.keys() - {"params", "batch_stats"}):
        raise ValueError(f"it has variables {unknown[0]!r}, but only params and batch_stats are trained")
    for found in logits:
        if found.shape != (1, 2, num_classes):
            raise ValueError(
                f"it returns {list(found.shape[1:])} for 2 images; logits of {num_classes} classes are [2, "
                f"{num_classes}]"
            )
