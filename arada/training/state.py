"""The state of a run: weights and optimizer on one side, supervision on the other."""

import functools
import zlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax


@flax.struct.dataclass
class TrainState:
    """All that a train step reads and writes. `normalization` never changes; it travels with the weights."""

    step: jax.Array
    params: dict
    batch_stats: dict
    normalization: dict
    opt_state: optax.OptState

    @property
    def variables(self) -> dict:
        """The variables that the logits function takes (`arada.models.logits_fn`)."""
        return {"params": self.params, "batch_stats": self.batch_stats, "normalization": self.normalization}


@flax.struct.dataclass
class Supervision:
    """The state learnt from the validation set, and the subset of every image, by ascending id.

    `learnt` is the method's own pytree (`arada.methods`), R soft labels for most of them. train_subset int32[N] and
    validation_subset int32[V] hold values in 0..R-1; with a leading axis [M] where the members of an ensemble have
    ranks of their own.
    """

    learnt: Any
    train_subset: np.ndarray
    validation_subset: np.ndarray


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init_variables(model: nn.Module, image_shape: tuple[int, ...], key: jax.Array) -> Mapping[str, Any]:
    return model.init(key, jnp.zeros((1, *image_shape)), train=False)


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    normalization: dict,
    image_shape: tuple[int, ...],
    key: jax.Array,
) -> TrainState:
    """A fresh state; `key` alone decides the weights. Compiled once for all seeds of a network."""
    variables = _init_variables(model, image_shape, key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        normalization=jax.tree.map(jnp.asarray, normalization),
        opt_state=optimizer.init(variables["params"]),
    )


def fingerprint(tree) -> int:
    """A CRC-32 of the arrays of `tree`, every bit included."""
    crc = 0
    for leaf in jax.tree.leaves(jax.device_get(tree)):
        crc = zlib.crc32(np.ascontiguousarray(leaf), crc)  # type: ignore[arg-type]
    return crc
