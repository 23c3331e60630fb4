"""Random image transformations that run inside the train step, one key an example.

They act on normalised images, as keras does: what moves in at an edge is a copy of the mean-free edge.
"""

import jax
import jax.numpy as jnp


def shift_by(image: jax.Array, offset: jax.Array) -> jax.Array:
    """Reads image [H, W, C] at its pixels plus `offset` float[2], bilinear, edge pixels repeated; as in keras, what
    it shows moves the other way.

    Two products with matrices that have two entries a row: unlike gathers these are fast everywhere.
    """

    def weights(size: int, by: jax.Array) -> jax.Array:
        source = jnp.clip(jnp.arange(size) + by, 0, size - 1)
        return jnp.maximum(0, 1 - jnp.abs(source[:, None] - jnp.arange(size)))

    rows, columns = (weights(size, by) for size, by in zip(image.shape[:2], offset, strict=True))
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision="highest")


def random_shift(key: jax.Array, image: jax.Array, fraction: float) -> jax.Array:
    """Moves image [H, W, C] by up to `fraction` of its size along each axis, uniformly, by fractions of a pixel."""
    reach = fraction * jnp.asarray(image.shape[:2], jnp.float32)
    return shift_by(image, jax.random.uniform(key, (2,), minval=-reach, maxval=reach))


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirrors image [H, W, C] left to right, or not, with equal chances."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def _shift_and_flip(key, image):
    # Keras' ImageDataGenerator with width and height shift 0.1: moved first, mirrored after.
    shift_key, flip_key = jax.random.split(key)
    return random_flip(flip_key, random_shift(shift_key, image, 0.1))


# The values of `config.training.augmentation`.
BY_NAME = {"none": lambda key, image: image, "flip": random_flip, "shift_and_flip": _shift_and_flip}


def augment(name: str, key: jax.Array, example_id: jax.Array, images: jax.Array) -> jax.Array:
    """Augments images [B, H, W, C], each by a key of its own made from the step's `key` and its id."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, example_id)
    return jax.vmap(BY_NAME[name])(keys, images)
