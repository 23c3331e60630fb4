"""The result of every attack, and the helpers that all attacks share."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp

from arada.inputs import Array

LogitsFn = Callable[[Array], jax.Array]
Attack = TypeVar("Attack", bound=Callable[..., Any])


class AttackResult(NamedTuple):
    """The outcome of an attack on B images in [0, 1].

    adversarial: float32[B, ...], the closest adversarial images found; the image itself where the attack failed.
    distance: float32[B], their L2 distance in pixel space, `inf` where the attack failed.
    success: bool[B], whether the model was seen to change its class on `adversarial`.
    """

    adversarial: jax.Array
    distance: jax.Array
    success: jax.Array


def full_precision(attack: Attack) -> Attack:
    """Traces an attack with float32 products: TPUs and TF32 would round them, and small distances with them."""

    @functools.wraps(attack)
    def traced(*args, **kwargs):
        with jax.default_matmul_precision("float32"):
            return attack(*args, **kwargs)

    return cast(Attack, traced)


def per_example(values: Array, like: Array) -> jax.Array:
    """Reshapes [B] so that it broadcasts against `like` [B, ...]."""
    return jnp.reshape(values, (-1,) + (1,) * (like.ndim - 1))


def l2_norm(x: Array) -> jax.Array:
    """L2 norm [B] over all but the first axis; its gradient is not needed anywhere."""
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim))))


def margin(logits: Array, label: Array) -> jax.Array:
    """Logit of `label` minus the best other logit, [B]: negative if another class wins."""
    is_label = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
    label_logit = jnp.sum(jnp.where(is_label, logits, 0), axis=-1)
    return label_logit - jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)


def class_changed(logits: Array, label: Array) -> jax.Array:
    """Whether `logits` predict another class than `label`, bool[B]; False where one is NaN, which argmax would pick."""
    return (jnp.argmax(logits, axis=-1) != label) & ~jnp.isnan(logits).any(axis=-1)


def checked(logits_fn: LogitsFn, images: Array, adversarial: Array, label: Array) -> AttackResult:
    """The result for candidates `adversarial`, with success decided by the model itself."""
    success = class_changed(logits_fn(adversarial), label)
    distance = jnp.where(success, l2_norm(adversarial - images), jnp.inf)
    return AttackResult(jnp.where(per_example(success, images), adversarial, images), distance, success)
