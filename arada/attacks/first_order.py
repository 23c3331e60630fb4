"""The distance to the linearised boundary by one gradient an image, and one found along its normal."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from arada.attacks.checks import prepared
from arada.attacks.linear import nearest_boundary
from arada.attacks.ray import nearest_on_ray
from arada.attacks.result import (
    Array,
    AttackResult,
    LogitsFn,
    checked,
    class_changed,
    full_precision,
    margin,
    per_example,
)

# As in the other attacks: a ray of length 0 has no direction.
LEAST_STEP = 1e-3


class FirstOrderResult(NamedTuple):
    """`result` of the attack; `estimate` float32[B] as `first_order_estimate` returns it."""

    result: AttackResult
    estimate: jax.Array


@full_precision
def first_order_estimate(
    logits_fn: LogitsFn, images: Array, labels: Array | None = None, *, candidates: int = 1
) -> jax.Array:
    """The distance to the linearised boundary, float32[B], by one gradient an image; arguments as for `first_order_l2`.

    It bounds nothing, because the network is not linear: it ranks, but finds no adversarial image. It is 0 where the
    predicted class differs from `labels`, and `inf` where the network gives no finite distance.
    """
    logits_fn, images, label = prepared(logits_fn, images, labels)
    return _estimate(*nearest_boundary(logits_fn, images, label, candidates)[:2], label)


@full_precision
def first_order(
    logits_fn: LogitsFn,
    images: Array,
    labels: Array | None = None,
    *,
    candidates: int = 1,
    overshoot: float = 0.02,
    passes: int = 3,
) -> FirstOrderResult:
    """Like `first_order_l2`, and also returns the first-order estimate: where both rank an example into one subset, a
    more expensive attack changes little (`arada.attacks.undecided`)."""
    logits_fn, images, label = prepared(logits_fn, images, labels)
    logits, distance, normal = nearest_boundary(logits_fn, images, label, candidates)
    estimate = _estimate(logits, distance, label)
    delta = per_example((1 + overshoot) * jnp.maximum(estimate, LEAST_STEP), images) * normal
    on_ray = nearest_on_ray(logits_fn, images, delta, label, margin(logits, label), passes)
    adversarial = jnp.where(per_example(class_changed(logits, label), images), images, on_ray)
    return FirstOrderResult(checked(logits_fn, images, jax.lax.stop_gradient(adversarial), label), estimate)


def first_order_l2(
    logits_fn: LogitsFn,
    images: Array,
    labels: Array | None = None,
    *,
    candidates: int = 1,
    overshoot: float = 0.02,
    passes: int = 3,
) -> AttackResult:
    """A near point of another class along the normal of the linearised boundary, by forward passes.

    Costs `candidates` gradients and about passes + 1 forward passes an image.

    Args:
      logits_fn: images [B, ...] in [0, 1] to logits [B, Z].
      images: float[B, ...] in [0, 1].
      labels: int[B]; the model's own predictions if None.
      candidates: number of best other classes to look at, at most Z - 1.
      overshoot: how far beyond the linearised boundary to start.
      passes: points of the normal to look at.
    """
    return first_order(logits_fn, images, labels, candidates=candidates, overshoot=overshoot, passes=passes).result


def _estimate(logits, distance, label):
    changed = class_changed(logits, label)  # misclassified before any attack: the labels were given
    return jnp.where(changed, 0, jnp.where(jnp.isfinite(distance), distance, jnp.inf))
