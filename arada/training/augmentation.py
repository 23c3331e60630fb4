"""Random image transformations that run inside the train step, one key per example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def shift_by(image: jax.Array, offset: jax.Array, outside: str = "nearest") -> jax.Array:
    """Reads image [H, W, C] at its pixels plus `offset` float[2], bilinear; as in keras, the content moves the other
    way. `outside` the image its edge is repeated ("nearest"), or all is 0 ("zero").

    Two products with matrices that have two entries a row: unlike gathers these are fast everywhere.
    """

    def weights(size: int, by: jax.Array) -> jax.Array:
        source = jnp.arange(size) + by
        if outside == "nearest":
            source = jnp.clip(source, 0, size - 1)
        return jnp.maximum(0, 1 - jnp.abs(source[:, None] - jnp.arange(size)))

    rows, columns = (weights(size, by) for size, by in zip(image.shape[:2], offset, strict=True))
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision="highest")


def random_shift(key: jax.Array, image: jax.Array, fraction: float) -> jax.Array:
    """Moves image [H, W, C] by up to `fraction` of its size along each axis, uniformly, by fractions of a pixel."""
    reach = fraction * jnp.asarray(image.shape[:2], jnp.float32)
    return shift_by(image, jax.random.uniform(key, (2,), minval=-reach, maxval=reach))


def random_crop(key: jax.Array, image: jax.Array, padding: int) -> jax.Array:
    """A crop as large as image [H, W, C] out of the image with `padding` black pixels around it."""
    offset = jax.random.randint(key, (2,), -padding, padding + 1)
    return shift_by(image, offset.astype(jnp.float32), outside="zero")


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors image [H, W, C] left to right, or not, with equal chances."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def _shift_and_flip(key, image):
    # Keras' ImageDataGenerator with width and height shift 0.1: moved first, mirrored after.
    shift_key, flip_key = jax.random.split(key)
    return random_flip(flip_key, random_shift(shift_key, image, 0.1))


def _crop_and_flip(key, image):
    # edward2 enlarges an image of 32 pixels by 4 in total.
    crop_key, flip_key = jax.random.split(key)
    return random_flip(flip_key, random_crop(crop_key, image, 2))


# The values of `config.training.augmentation`.
BY_NAME = {
    "none": lambda key, image: image,
    "flip": random_flip,
    "shift_and_flip": _shift_and_flip,
    "crop_and_flip": _crop_and_flip,
}
# These see raw pixels, as in edward2: pixels that move in are black. The others see normalised images, as in keras:
# pixels that move in copy the mean-free edge.
_BEFORE_NORMALIZATION = ("crop_and_flip",)


def augment(
    name: str,
    key: jax.Array,
    example_id: jax.Array,
    images: jax.Array,
    normalize: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Augments raw images [B, H, W, C] in [0, 1], each by a key of its own made from the step's `key` and its id.

    Returns them normalised.
    """
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, example_id)
    transform = jax.vmap(BY_NAME[name])
    if name in _BEFORE_NORMALIZATION:
        return normalize(transform(keys, images))
    return transform(keys, normalize(images))
