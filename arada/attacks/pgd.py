"""Projected gradient descent within an L-infinity ball: where near an image is the network most confident of a
wrong class?
"""

import jax
import jax.numpy as jnp
import numpy as np

from arada import inputs
from arada.attacks.checks import prepared
from arada.attacks.result import Array, AttackResult, LogitsFn, class_changed, per_example


def pgd_linf(
    logits_fn: LogitsFn,
    images: Array,
    labels: Array | None,
    key: jax.Array,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    momentum: float = 0.9,
    shrinkage: float = 1.5,
    example_id: Array | None = None,
) -> AttackResult:
    """Maximises the largest probability of a wrong class over |delta| <= epsilon in every pixel, pixels in [0, 1].

    A step that lowers it is rejected, and later steps of this example are shorter. Costs `steps` gradients and as many
    forward passes an image. Products keep the caller's precision: a sign needs few digits.

    Args:
      logits_fn: images [B, ...] to logits [B, Z].
      images: float[B, ...] in [0, 1]. Pixels outside this range, which jit hides, are not moved farther out.
      labels: int[B]; the model's own predictions if None.
      key: one for the batch: it draws one of three starts for all examples, and with the id the noise of each.
      epsilon: radius of the ball.
      step_size: times the momentum, which gathers signs of gradients as m <- momentum * m + (1 - momentum) * sign:
        the first step is (1 - momentum) * step_size long.
      steps: iterations.
      momentum: as above; 0 for plain steps.
      shrinkage: divisor of an example's step size after a rejected step.
      example_id: int[B]; places in the batch if None.

    Returns:
      The images found, whether or not the class changes there; `distance` is their L-infinity distance, `inf` where it
      does not.

    Source: Stutz et al. 2020 (CCAT), PGD-Conf and its code; where images are equally good the code keeps the first,
    and this function the last.
    """
    logits_fn, images, labels = prepared(logits_fn, images, labels)
    if example_id is None:
        example_id = np.arange(len(images), dtype=np.int32)
    example_id = jnp.asarray(inputs.whole_numbers("example_id", example_id, ("images", images), 2**31))
    lowest = jnp.maximum(images - epsilon, jnp.minimum(images, 0))
    highest = jnp.minimum(images + epsilon, jnp.maximum(images, 1))

    def objective(x):
        logits = logits_fn(x)
        is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
        wrong = jnp.max(jnp.where(is_label, 0, jax.nn.softmax(logits)), axis=-1)
        return jnp.sum(wrong), wrong

    def step(_, carry):
        x, velocity, rate = carry
        (_, before), gradient = jax.value_and_grad(objective, has_aux=True)(x)
        velocity = momentum * velocity + (1 - momentum) * jnp.sign(gradient)
        proposed = jnp.clip(x + per_example(rate, x) * velocity, lowest, highest)
        taken = objective(proposed)[1] >= before
        rate = jnp.where(taken, rate, jnp.maximum(rate / shrinkage, 1e-20))
        return jnp.where(per_example(taken, x), proposed, x), velocity, rate

    start = jnp.clip(images + _start(key, images, example_id, epsilon), lowest, highest)  # type: ignore[arg-type, operator]
    rate = jnp.full(len(images), step_size, jnp.float32)
    adversarial, _, _ = jax.lax.fori_loop(0, steps, step, (start, jnp.zeros_like(images), rate))
    success = class_changed(logits_fn(adversarial), labels)
    distance = jnp.max(jnp.abs(adversarial - images), axis=tuple(range(1, images.ndim)))
    return AttackResult(adversarial, jnp.where(success, distance, jnp.inf), success)


def _start(key: jax.Array, images: jax.Array, example_id: jax.Array, epsilon: float) -> jax.Array:
    """Where the batch begins: little normal noise, a random direction of any length up to epsilon, or nothing."""
    kind_key, noise_key = jax.random.split(key)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(noise_key, example_id)

    def draw(key):
        direction_key, length_key = jax.random.split(key)
        noise = jax.random.normal(direction_key, images.shape[1:], jnp.float32)
        return noise, jax.random.uniform(length_key, dtype=jnp.float32)

    noise, length = jax.vmap(draw)(keys)
    largest = jnp.max(jnp.abs(noise), axis=tuple(range(1, noise.ndim)))
    # Of D standard normal numbers the largest is below 2 ln D, almost always.
    normal = epsilon / float(2 * np.log(max(noise[0].size, 2))) * noise
    uniform = epsilon * per_example(length / largest, noise) * noise
    return jax.lax.select_n(jax.random.randint(kind_key, (), 0, 3, jnp.int32), normal, uniform, jnp.zeros_like(noise))
