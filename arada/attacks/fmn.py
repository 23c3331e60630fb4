"""Fast minimum-norm attack with few steps: a ranking for a hundredth of Carlini-Wagner's gradients."""

import jax
import jax.numpy as jnp

from arada.attacks.checks import prepared
from arada.attacks.ray import nearest_on_ray
from arada.attacks.result import Array, AttackResult, LogitsFn, checked, full_precision, l2_norm, margin, per_example

# Minimum L2 length added to a guess. Two logits may be equal (in bfloat16 they often are); the guess from a margin
# of 0 would not move the point, and would rank an example on the boundary as one that resisted the attack.
LEAST_STEP = 1e-3


@full_precision
def fmn_l2(
    logits_fn: LogitsFn,
    images: Array,
    labels: Array | None = None,
    *,
    steps: int = 20,
    initial_step_size: float = 1.0,
    initial_shrinkage: float = 0.05,
    overshoot: float = 0.02,
    passes: int = 3,
) -> AttackResult:
    """A small L2 perturbation that flips the class, by a step along the margin's gradient and a shrinking radius.

    The radius is a first-order guess of the distance to the boundary until the class flips; from then on it shrinks
    while the point is adversarial and grows while it is not. At the end forward passes alone search the boundary along
    the direction found. Costs `steps` gradients and about passes + 2 forward passes an image.

    Args:
      logits_fn: images [B, ...] in [0, 1] to logits [B, Z].
      images: float[B, ...] in [0, 1].
      labels: int[B]; the model's own predictions if None.
      steps: gradients an image.
      initial_step_size: L2 length of the first step; falls to a hundredth by a cosine.
      initial_shrinkage: relative change of the radius at the first step; falls to a fiftieth by a cosine.
      overshoot: how far beyond the guessed boundary to step: one step then crosses the boundary of a linear model.
      passes: points of the final direction to look at.

    Source: Pintor et al. 2021, "Fast minimum-norm adversarial attacks", algorithm 1; overshoot and final search are our
    own additions, and each step ends on the sphere of its radius, where theirs may end within.
    """
    logits_fn, images, label = prepared(logits_fn, images, labels)

    def margin_sum(x):
        margins = margin(logits_fn(x), label)
        return jnp.sum(margins), margins

    def step(t, carry):
        delta, radius, best_distance, best_delta, seen = carry
        anneal = (1 + jnp.cos(jnp.pi * t / steps)) / 2
        step_size = initial_step_size * (0.01 + 0.99 * anneal)
        shrinkage = initial_shrinkage * (0.02 + 0.98 * anneal)
        grads, margins = jax.grad(margin_sum, has_aux=True)(images + delta)
        grad_norm = jnp.maximum(l2_norm(grads), 1e-12)
        distance = l2_norm(delta)
        adversarial = margins < 0
        better = adversarial & (distance < best_distance)
        best_distance = jnp.where(better, distance, best_distance)
        best_delta = jnp.where(per_example(better, images), delta, best_delta)
        seen |= adversarial
        guess = distance + jnp.maximum((1 + overshoot) * jnp.abs(margins) / grad_norm, LEAST_STEP)
        outside = jnp.where(seen, (1 + shrinkage) * radius, guess)
        radius = jnp.where(adversarial, jnp.minimum((1 - shrinkage) * radius, best_distance), outside)
        delta -= per_example(step_size / grad_norm, images) * grads
        delta *= per_example(radius / jnp.maximum(l2_norm(delta), 1e-12), images)
        delta = jnp.clip(images + delta, 0, 1) - images
        return delta, radius, best_distance, best_delta, seen

    infinite = jnp.full(images.shape[0], jnp.inf, jnp.float32)
    start = (jnp.zeros_like(images), infinite, infinite, jnp.zeros_like(images), jnp.zeros(infinite.shape, bool))
    delta, _, _, best_delta, seen = jax.lax.fori_loop(0, steps, step, start)
    delta = jnp.where(per_example(seen, images), best_delta, delta)

    adversarial = nearest_on_ray(logits_fn, images, delta, label, margin(logits_fn(images), label), passes)
    return checked(logits_fn, images, jax.lax.stop_gradient(adversarial), label)
