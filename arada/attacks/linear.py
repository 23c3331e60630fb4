"""The boundary of a classifier's first-order expansion, the step of DeepFool and its successors."""

import jax
import jax.numpy as jnp

from arada.attacks.result import Array, LogitsFn, l2_norm, per_example


def nearest_boundary(
    logits_fn: LogitsFn, points: Array, label: Array, candidates: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where the logits' linearisation at `points` [B, ...] lets another class win: logits [B, Z], distance and normal.

    Each of the `candidates` highest other logits has a hyperplane on which it equals the logit of `label`. Returns
    the L2 distance [B] to the nearest of them and its unit normal [B, ...], which points towards the other class on
    both sides. Costs `candidates` gradients (one forward pass).

    Source: Moosavi-Dezfooli et al. 2016, "DeepFool".
    """
    logits, backward = jax.vjp(logits_fn, points)
    is_label = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
    candidates = min(candidates, logits.shape[-1] - 1)
    other_logits, others = jax.lax.top_k(jnp.where(is_label, -jnp.inf, logits), candidates)
    differences = jnp.abs(other_logits - jnp.sum(jnp.where(is_label, logits, 0), axis=-1, keepdims=True)).T
    cotangents = jax.nn.one_hot(others.T, logits.shape[-1], dtype=logits.dtype) - is_label.astype(logits.dtype)
    (normals,) = jax.vmap(backward)(cotangents)
    norms = jnp.maximum(jax.vmap(l2_norm)(normals), 1e-12)
    distances = differences / norms
    nearest = jnp.argmin(distances, axis=0)[None]

    def at_nearest(values):
        return jnp.take_along_axis(values, nearest.reshape(1, -1, *(1,) * (values.ndim - 2)), axis=0)[0]

    normal = at_nearest(normals) / per_example(at_nearest(norms), points)
    return logits, at_nearest(distances), normal
