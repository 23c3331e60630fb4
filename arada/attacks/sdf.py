"""SuperDeepFool-like attack: steps to the linearised boundary, then a projection onto its normal."""

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
    l2_norm,
    margin,
    per_example,
)

# L2 length added to every step, so that it crosses a boundary that lies exactly at the guess.
LEAST_STEP = 1e-4


@full_precision
def sdf_l2(
    logits_fn: LogitsFn,
    images: Array,
    labels: Array | None = None,
    *,
    rounds: int = 3,
    steps: int = 3,
    candidates: int = 1,
    overshoot: float = 0.02,
    passes: int = 3,
) -> AttackResult:
    """A small L2 perturbation that flips the class, at right angles to the boundary where it crosses.

    A round goes to the linearised boundary up to `steps` times, until the class flips (DeepFool), and then projects
    the perturbation onto the boundary's normal there: the shortest perturbation is parallel to it. The next round
    starts from the projection. At the end forward passes alone search the boundary along the last projection; the
    smallest adversarial point seen is kept. Costs rounds * (steps * candidates + 1) gradients and about passes + 3
    forward passes an image, whether it flips early or late.

    Args:
      logits_fn: images [B, ...] in [0, 1] to logits [B, Z].
      images: float[B, ...] in [0, 1].
      labels: int[B]; the model's own predictions if None.
      rounds: projections.
      steps: DeepFool steps of a round; examples that have flipped wait.
      candidates: number of best other classes that a step looks at, at most Z - 1.
      overshoot: how far beyond the linearised boundary to step.
      passes: points of the last projection to look at.

    Source: "Revisiting DeepFool: generalization and improvement" (SuperDeepFool), Abdollahpour et al. 2024, the
    projection restarting from the image as in the paper's algorithm; fixed trip counts and final search are ours.
    """
    logits_fn, images, label = prepared(logits_fn, images, labels)
    clean = logits_fn(images)

    def keep_best(best, points, logits):
        distance = l2_norm(points - images)
        better = class_changed(logits, label) & (distance < best[0])
        return jnp.where(better, distance, best[0]), jnp.where(per_example(better, images), points, best[1])

    def step(_, carry):
        points, best = carry
        logits, distance, normal = nearest_boundary(logits_fn, points, label, candidates)
        best = keep_best(best, points, logits)
        length = jnp.where(class_changed(logits, label), 0, (1 + overshoot) * (distance + LEAST_STEP))
        return jnp.clip(points + per_example(length, images) * normal, 0, 1), best

    def round_(_, carry):
        points, best = jax.lax.fori_loop(0, steps, step, carry)
        # If a step reached another class, that is the best other class.
        logits, _, normal = nearest_boundary(logits_fn, points, label, 1)
        best = keep_best(best, points, logits)
        along = jnp.sum((points - images) * normal, axis=tuple(range(1, images.ndim)))
        return jnp.clip(images + per_example(along, images) * normal, 0, 1), best

    infinite = jnp.full(images.shape[0], jnp.inf, jnp.float32)
    points, (distance, adversarial) = jax.lax.fori_loop(0, rounds, round_, (images, (infinite, images)))
    on_ray = nearest_on_ray(logits_fn, images, points - images, label, margin(clean, label), passes)
    nearer = class_changed(logits_fn(on_ray), label) & (l2_norm(on_ray - images) < distance)
    adversarial = jnp.where(per_example(nearer, images), on_ray, adversarial)
    return checked(logits_fn, images, jax.lax.stop_gradient(adversarial), label)
