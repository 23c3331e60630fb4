"""Carlini-Wagner L2 attack as in cleverhans 3.1 (section A.4 of the paper), as one program."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from arada.attacks.checks import prepared
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

# Keeps arctanh finite on black and white pixels. tanh is so flat there that Adam moves them late, and the distance of
# an image with many of them comes out too large; the constant is cleverhans' own, and a looser one would rank such
# images differently.
TANH_SCALE = 0.999999


@full_precision
def cw_l2(
    logits_fn: LogitsFn,
    images: Array,
    labels: Array | None = None,
    *,
    binary_search_steps: int = 3,
    max_iterations: int = 500,
    learning_rate: float = 0.005,
    initial_const: float = 0.01,
    confidence: float = 0.0,
    abort_early: bool = False,
) -> AttackResult:
    """The smallest L2 perturbation that flips the class (Carlini & Wagner 2017), the paper's adversarial robustness.

    Minimises ||x' - x||^2 + c * max(0, margin + confidence) by Adam over x' = (tanh(w) + 1) / 2, with a binary
    search for c per example; the best point of all searches is kept. Costs binary_search_steps * max_iterations
    gradients an image, fewer with `abort_early`.

    Args:
      logits_fn: images [B, ...] in [0, 1] to logits [B, Z].
      images: float[B, ...] in [0, 1].
      labels: int[B]; the model's own predictions if None, so that the attack measures f(x + delta) != f(x).
      binary_search_steps: how often c is adapted, each time with a fresh optimizer.
      max_iterations: Adam steps for each c.
      learning_rate: of Adam, in the space of w.
      initial_const: the first c; tenfold until a first success, halved or bisected after.
      confidence: the margin by which the adversarial class must win.
      abort_early: end a search of an example when its loss has fallen by less than 0.01 % in a tenth of the
        iterations, independently of the other examples. The program ends with the slowest example: on a trained ResNet
        after a third of the iterations. cleverhans decides for a whole batch, which makes distances depend on it.

    Source: cleverhans v3.1.0, attacks/carlini_wagner_l2.py.
    """
    logits_fn, images, label = prepared(logits_fn, images, labels)
    batch = images.shape[0]
    pre_tanh = jnp.arctanh((2 * jnp.clip(images, 0, 1) - 1) * TANH_SCALE)
    # As in cleverhans the distance is taken from the round-tripped image, within 1e-6 of the image itself.
    origin = (jnp.tanh(pre_tanh) + 1) / 2
    optimizer = optax.adam(learning_rate, b1=0.9, b2=0.999, eps=1e-8)
    check_every = max(max_iterations // 10, 1)

    def objective(modifier, const):
        adversarial = (jnp.tanh(pre_tanh + modifier) + 1) / 2
        squared = jnp.sum(jnp.square(adversarial - origin), axis=tuple(range(1, images.ndim)))
        logits = logits_fn(adversarial)
        loss = squared + const * jnp.maximum(margin(logits, label) + confidence, 0)
        # Summed, not averaged: each example's gradient is then independent of the batch.
        return jnp.sum(loss), (loss, squared, logits, adversarial)

    # Every example is at its own point of its own search, so none waits for another.
    def fresh_search():
        modifier = jnp.zeros_like(images)
        return _Search(
            modifier=modifier,
            optimizer_state=jax.vmap(optimizer.init)(modifier),
            iteration=jnp.zeros(batch, jnp.int32),
            success=jnp.zeros(batch, bool),
            previous_loss=jnp.full(batch, 1e6, jnp.float32),
        )

    def searching(carry: _Carry):
        return carry.finished < binary_search_steps

    def iterate(carry: _Carry) -> _Carry:
        search, const = carry.search, carry.const
        grads, (loss, squared, logits, adversarial) = jax.grad(objective, has_aux=True)(search.modifier, const)
        aborts, previous_loss = jnp.zeros(batch, bool), search.previous_loss
        if abort_early:
            # Before the best-so-far update, as in cleverhans: the point at which an example aborts is not recorded.
            checking = search.iteration % check_every == 0
            aborts = checking & (loss > 0.9999 * previous_loss)
            previous_loss = jnp.where(checking, loss, previous_loss)
        raised = logits + confidence * jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
        flipped = class_changed(raised, label) & ~aborts & searching(carry)
        better = flipped & (squared < carry.best_squared)
        updates, optimizer_state = jax.vmap(optimizer.update)(grads, search.optimizer_state)
        search = _Search(
            modifier=search.modifier + updates,
            optimizer_state=optimizer_state,
            iteration=search.iteration + 1,
            success=search.success | flipped,
            previous_loss=previous_loss,
        )
        ends = (aborts | (search.iteration == max_iterations)) & searching(carry)
        upper = jnp.where(ends & search.success, jnp.minimum(carry.upper, const), carry.upper)
        lower = jnp.where(ends & ~search.success, jnp.maximum(carry.lower, const), carry.lower)
        return _Carry(
            finished=carry.finished + ends,
            search=jax.tree.map(lambda new, old: jnp.where(per_example(ends, old), new, old), fresh_search(), search),
            lower=lower,
            upper=upper,
            const=jnp.where(ends, jnp.where(upper < 1e9, (lower + upper) / 2, const * 10), const),
            best_squared=jnp.where(better, squared, carry.best_squared),
            best=jnp.where(per_example(better, images), adversarial, carry.best),
        )

    start = _Carry(
        finished=jnp.zeros(batch, jnp.int32),
        search=fresh_search(),
        lower=jnp.full(batch, 0, jnp.float32),
        upper=jnp.full(batch, 1e10, jnp.float32),
        const=jnp.full(batch, initial_const, jnp.float32),
        best_squared=jnp.full(batch, jnp.inf, jnp.float32),
        best=jnp.asarray(images),
    )
    end = jax.lax.while_loop(lambda carry: jnp.any(searching(carry)), iterate, start)
    return checked(logits_fn, images, jax.lax.stop_gradient(end.best), label)


class _Search(NamedTuple):
    """One search for the smallest perturbation at a fixed c, example by example: all arrays are [B, ...]."""

    modifier: jax.Array
    optimizer_state: optax.OptState
    iteration: jax.Array
    success: jax.Array
    previous_loss: jax.Array


class _Carry(NamedTuple):
    """What the loop carries, example by example: all arrays are [B, ...].

    finished: how many searches are over.
    search: the one under way.
    lower, upper, const: the bracket of c, and the c of this search.
    best_squared, best: the smallest squared distance at which the class changed, and that image.
    """

    finished: jax.Array
    search: _Search
    lower: jax.Array
    upper: jax.Array
    const: jax.Array
    best_squared: jax.Array
    best: jax.Array
