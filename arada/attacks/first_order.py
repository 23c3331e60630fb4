"""The distance to the linearised boundary by one gradient an image, and one found along its normal."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from arada.attacks.linear import nearest_boundary
from arada.attacks.ray import nearest_on_ray
from arada.attacks.result import Array, AttackResult, LogitsFn, checked, class_changed, full_precision, per_example

# As in the other attacks: a ray of length 0 has no direction.
LEAST_STEP = 1e-3


class FirstOrderResult(NamedTuple):
    """`result` is an attack's; `estimate` float32[B] is the distance to the linearised boundary, no bound in either
    direction, for the network bends on the way. It is `inf` where the network gives no finite one."""

    result: AttackResult
    estimate: jax.Array


@full_precision
def first_order(
    logits_fn: LogitsFn,
    images: Array,
    labels: Array | None = None,
    *,
    candidates: int = 1,
    overshoot: float = 0.02,
    bisections: int = 8,
) -> FirstOrderResult:
    """As `first_order_l2`, with the first-order estimate beside the distance found: where both rank an example into
    one subset, a dearer attack has little to add (`arada.attacks.undecided`)."""
    images = jnp.asarray(images, jnp.float32)
    label = jnp.argmax(logits_fn(images), axis=-1) if labels is None else jnp.asarray(labels)
    logits, estimate, normal = nearest_boundary(logits_fn, images, label, candidates)
    changed = class_changed(logits, label)  # before any attack: the labels were given
    estimate = jnp.where(changed, 0, jnp.where(jnp.isfinite(estimate), estimate, jnp.inf))
    delta = per_example((1 + overshoot) * jnp.maximum(estimate, LEAST_STEP), images) * normal
    on_ray = nearest_on_ray(logits_fn, images, delta, label, bisections)
    adversarial = jnp.where(per_example(changed, images), images, on_ray)
    return FirstOrderResult(checked(logits_fn, images, jax.lax.stop_gradient(adversarial), label), estimate)


def first_order_l2(
    logits_fn: LogitsFn,
    images: Array,
    labels: Array | None = None,
    *,
    candidates: int = 1,
    overshoot: float = 0.02,
    bisections: int = 8,
) -> AttackResult:
    """The nearest point of another class along the normal of the linearised boundary, by forward passes.

    Costs `candidates` gradients and about 2 * bisections forward passes an image.

    Args:
      logits_fn: images [B, ...] in [0, 1] to logits [B, Z].
      images: float[B, ...] in [0, 1].
      labels: int[B]; the model's own predictions if None.
      candidates: how many of the best other classes to look at, at most Z - 1.
      overshoot: how far beyond the linearised boundary to begin.
      bisections: halvings of the ray, and doublings where it does not reach another class.
    """
    settings = {"candidates": candidates, "overshoot": overshoot, "bisections": bisections}
    return first_order(logits_fn, images, labels, **settings).result
