"""The last stage of the cheap attacks: forward passes alone find where a ray from the image leaves its class."""

import jax
import jax.numpy as jnp

from arada.attacks.result import Array, LogitsFn, class_changed, per_example


def nearest_on_ray(logits_fn: LogitsFn, images: Array, delta: Array, label: Array, bisections: int) -> jax.Array:
    """The point [B, ...] nearest to each image on the ray along `delta` [B, ...] that was seen to change the class.

    Where images + delta does not, the ray is first followed outwards, doubling its length up to `bisections` times;
    then the way back to the image is halved as often. Points are clipped to [0, 1], so that a long ray ends in the
    corners of the box. Where no point changes the class the outermost one is returned: the caller checks. Costs
    2 * bisections + 1 forward passes.
    """

    def point(scale):
        return jnp.clip(images + per_example(scale, images) * delta, 0, 1)

    def flips(scale):
        return class_changed(logits_fn(point(scale)), label)

    def push(_, carry):
        inner, outer, flipped = carry
        inner, outer = jnp.where(flipped, inner, outer), jnp.where(flipped, outer, 2 * outer)
        return inner, outer, flipped | flips(outer)

    def bisect(_, carry):
        inner, outer = carry
        middle = (inner + outer) / 2
        flipped = flips(middle)
        return jnp.where(flipped, inner, middle), jnp.where(flipped, middle, outer)

    one = jnp.ones(images.shape[0])
    inner, outer, _ = jax.lax.fori_loop(0, bisections, push, (0 * one, one, flips(one)))
    _, outer = jax.lax.fori_loop(0, bisections, bisect, (inner, outer))
    return point(outer)
