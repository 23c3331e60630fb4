"""Several networks of one architecture as one function: the members of an ensemble, their variables stacked."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from arada.models.classifier import Variables, logits_fn

# Which variables have a leading axis [M]: the data are the same for all members, and so is their normalisation.
VARIABLES_AXES = {"params": 0, "batch_stats": 0, "normalization": None}


def member_seeds(seed: int, members: int) -> range:
    """The seeds of the members of an ensemble's run; no two ensembles share one."""
    return range(seed * members, (seed + 1) * members)


def over_members(f: Callable, in_axes, out_axes, *, members: int, unrolled: bool | None = None) -> Callable:
    """`f` for each of M members, by `jax.vmap`, or one after the other within one program.

    `in_axes` and `out_axes` are pytree prefixes of axes, None for arguments that members share. `unrolled=None` stacks
    on a TPU only: XLA turns stacked kernels into grouped convolutions, which run at a twentieth of the speed on a CPU
    and are slow backward on a GPU (jax#13800), where the activations of all members would have to fit as well.
    """
    unrolled = jax.default_backend() != "tpu" if unrolled is None else unrolled
    if not unrolled:
        return jax.vmap(f, in_axes, out_axes, axis_size=members)

    def is_none(axis):
        return axis is None

    def of_member(m, axis, tree):
        return tree if axis is None else jax.tree.map(lambda x: lax.index_in_dim(x, m, axis, keepdims=False), tree)

    def stacked(axis, *trees):
        return trees[0] if axis is None else jax.tree.map(lambda *x: jnp.stack(x, axis), *trees)

    def call(*args):
        each = [
            f(*(jax.tree.map(lambda *pair, m=m: of_member(m, *pair), in_axes, args, is_leaf=is_none)))
            for m in range(members)
        ]
        return jax.tree.map(stacked, out_axes, *each, is_leaf=is_none)

    return call


def member_logits_fn(
    model: nn.Module, members: int, *, unrolled: bool | None = None
) -> Callable[[Variables, jax.Array], jax.Array]:
    """The members as (variables, images [B, H, W, C]) -> logits [M, B, Z]; see `VARIABLES_AXES`."""
    return over_members(logits_fn(model), (VARIABLES_AXES, None), 0, members=members, unrolled=unrolled)


def mean_prediction(logits: jax.Array) -> jax.Array:
    """The ensemble's logits float32[B, Z]: log of the mean probabilities of its members' logits [M, B, Z]."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    return jax.nn.logsumexp(log_probabilities, axis=0) - jnp.log(len(logits))
