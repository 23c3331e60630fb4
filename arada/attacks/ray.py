"""The last stage of the cheap attacks: a search by forward passes for the point where a ray leaves the image's
class.
"""

import jax
import jax.numpy as jnp

from arada.attacks.result import Array, LogitsFn, class_changed, margin, per_example

# Further passes for examples that have kept their class; each lengthens their ray, at most to twice.
FURTHER_PASSES = 8


def nearest_on_ray(
    logits_fn: LogitsFn, images: Array, delta: Array, label: Array, margin_at_image: Array, passes: int
) -> jax.Array:
    """The point [B, ...] nearest to each image on the ray along `delta` [B, ...] that was seen to change the class.

    The first pass evaluates images + delta; each later one evaluates slightly beyond the zero of the line through the
    last two margins; `margin_at_image` [B] is the margin before the first. Points are clipped to [0, 1], so a long ray
    ends in a corner of the box. Where no point changes the class the result is the last one: the caller checks. Costs
    `passes` forward passes, and up to 8 more while an example of the batch keeps its class.
    """

    def point(scale):
        return jnp.clip(images + per_example(scale, images) * delta, 0, 1)

    def unfinished(carry):
        number, _, _, _, crossed = carry
        return (number < passes) | ((number < passes + FURTHER_PASSES) & ~crossed.all())

    def look(carry):
        number, scale, inner, outer, crossed = carry
        logits = logits_fn(point(scale))
        searched = (number < passes) | ~crossed  # finished examples wait: a result must not depend on the batch
        flipped = searched & class_changed(logits, label)
        held = searched & ~flipped & ~jnp.isnan(logits).any(axis=-1)
        here = scale, margin(logits, label).astype(jnp.float32)
        # Before the first crossing `outer` is the point before `inner`, and the line is followed outwards.
        outer = _where(flipped, here, _where(held & ~crossed, inner, outer))
        inner, crossed = _where(held, here, inner), crossed | flipped
        (near, margin_near), (far, margin_far) = inner, outer
        crossing = near + (far - near) * margin_near / (margin_near - margin_far)
        further = jnp.minimum((1 + 0.02 * 2.0**number) * crossing, 2 * scale)
        outwards = jnp.where(crossing >= scale, further, 2 * scale)
        # As far as possible a ratio of the distance: a bias that all examples share does not change their ranks.
        inwards = crossing + jnp.minimum(0.01 * crossing, 0.1 * (far - crossing))
        inwards = jnp.fmax(inwards, near + 0.05 * (far - near))  # a margin of 0 would stop the search
        return number + 1, jnp.where(crossed, inwards, outwards), inner, outer, crossed

    zero = jnp.zeros(len(images), jnp.float32)
    at_image = zero, jnp.maximum(margin_at_image.astype(jnp.float32), 0)
    start = 0, zero + 1, at_image, at_image, jnp.zeros(len(images), bool)
    _, scale, _, (outer, _), crossed = jax.lax.while_loop(unfinished, look, start)
    return point(jnp.where(crossed, outer, scale))


def _where(condition, these, others):
    return tuple(jnp.where(condition, one, other) for one, other in zip(these, others, strict=True))
