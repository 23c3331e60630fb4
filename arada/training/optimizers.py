"""Optimizers, learning-rate schedules by epoch, and the l2 terms of the paper's recipes."""

import jax
import jax.numpy as jnp
import ml_collections
import optax

from arada.errors import UserError


def learning_rate_schedule(config: ml_collections.ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate by step: `config.learning_rate`, times the last factor of `config.decay` that has begun.

    `config.decay` is ((epoch, factor), ...) with 0-based epochs; `config.warmup_epochs` rise linearly from 0.
    """
    boundaries, previous = {}, 1.0
    for epoch, factor in config.decay:
        boundaries[round(epoch * steps_per_epoch)] = factor / previous
        previous = factor
    decayed = optax.piecewise_constant_schedule(config.learning_rate, boundaries)
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if not warmup_steps:
        return decayed
    return lambda step: decayed(step) * jnp.minimum(1.0, step / warmup_steps)


def build(config: ml_collections.ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of `config.optimizer`. Raises UserError for an unknown name."""
    schedule = learning_rate_schedule(config, steps_per_epoch)
    if config.name == "adam":
        # Keras' epsilon.
        return optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-7)
    if config.name == "sgd":
        # Keras has the learning rate inside the velocity, unlike optax.sgd: velocity from before a decay keeps its
        # length after it.
        return optax.chain(
            optax.scale_by_learning_rate(schedule), optax.trace(decay=config.momentum, nesterov=config.nesterov)
        )
    raise UserError(f"optimizer.name must be 'adam' or 'sgd', not {config.name!r}")


# The values of `config.optimizer.l2_on`: which parameters, by path and value, the l2 term counts.
L2_TARGETS = {
    "convolutions": lambda path, value: path[-1].key == "kernel" and value.ndim == 4,
    # edward2's ImageNet script: all parameters named kernel or bias, which leaves out batch norm.
    "kernels_and_biases": lambda path, value: (
        path[-1].key == "kernel" or (path[-1].key == "bias" and not path[-2].key.startswith("BatchNorm"))
    ),
    "everything": lambda path, value: True,
}


def l2_penalty(params: dict, coefficient: float, targets: str) -> jax.Array:
    """coefficient * sum of w^2, without the half, as in Keras: the gradient is 2 * coefficient * w."""
    counted = [
        jnp.sum(jnp.square(value))
        for path, value in jax.tree_util.tree_leaves_with_path(params)
        if L2_TARGETS[targets](path, value)
    ]
    return coefficient * jnp.asarray(sum(counted))
