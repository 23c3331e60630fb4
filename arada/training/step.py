"""The train step and the validation step: pure, per device, with collectives over `BATCH_AXIS`."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from arada import models
from arada.methods import Method, Network
from arada.models import BATCH_AXIS
from arada.training.state import TrainState


def train_step(
    model: nn.Module,
    method: Method,
    augment: Callable[[jax.Array, jax.Array, jax.Array, Callable], jax.Array],
    optimizer: optax.GradientTransformation,
    penalty: Callable[[dict], jax.Array],
    accumulate: int = 1,
) -> Callable:
    """Builds step(state, batch, learnt, key) -> (state, metrics); all but `batch` are replicated.

    Args:
      model: the network.
      method: what turns a batch into losses (`arada.methods`); `learnt` is its state.
      augment: (key, example_id [B], images in [0, 1], normalise) -> normalised images.
      optimizer: an optax transformation.
      penalty: params -> scalar, added to the mean loss.
      accumulate: parts of a batch that go through the network one after the other, for less memory: of A parts the
        k-th has the examples at the places k, k + A, k + 2A ... of the global batch, whatever the number of devices.
        The gradient is the mean of the parts' gradients. Each part has batch statistics of its own, whose mean is kept,
        and is the batch for all that methods do between examples (mixup's partner, CCAT's odd places). What is drawn
        once per step is drawn once for all of them.

    `key` is the run's; the key of step t is folded in from it, so that a resumed run draws the same numbers.
    `metrics` are of the global batch: mean loss (with the penalty), accuracy, and the norm of the gradient.
    """

    def step(state: TrainState, batch, learnt, key):
        augment_key, method_key = jax.random.split(jax.random.fold_in(key, state.step))
        normalize = functools.partial(models.normalize, state.normalization)

        def logits_now(images):
            weights = {"params": state.params, "batch_stats": state.batch_stats}
            return model.apply(weights, images, train=False)

        def part_gradients(batch):
            images = augment(augment_key, batch["example_id"], models.unit_range(batch["image"]), normalize)

            def objective(params):
                def forward(images):
                    variables = {"params": params, "batch_stats": state.batch_stats}
                    logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
                    return logits, updated.get("batch_stats", {})

                network = Network(forward, logits_now, state.normalization)
                losses, logits, batch_stats = method.loss(network, images, batch, learnt, method_key)
                return jnp.mean(losses) + penalty(params), (logits, batch_stats)

            (loss, (logits, batch_stats)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
            accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == batch["label"])
            return grads, batch_stats, {"loss": loss, "accuracy": accuracy}

        # Equal shards: the mean of the devices' means is the mean over the batch. Batch statistics differ by device
        # where batch norm is `per_device`; elsewhere their mean changes nothing.
        grads, batch_stats, metrics = lax.pmean(_mean_of_parts(part_gradients, batch, accumulate), BATCH_AXIS)
        metrics["gradient_norm"] = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = {"step": state.step + 1, "params": params, "batch_stats": batch_stats, "opt_state": opt_state}
        state = dataclasses.replace(state, **new)
        return state, metrics

    return step


def _mean_of_parts(f: Callable, batch, count: int):
    """The mean of f over `count` parts of a batch, each of every count-th example, one after the other."""
    if count == 1:
        return f(batch)
    parts = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)
    first = jax.tree.map(lambda x: x[0], parts)
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(f, first))
    total, _ = lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, f(part)), None), start, parts)
    return jax.tree.map(lambda x: x / count, total)


def validation_step(logits_fn: Callable) -> Callable:
    """Builds step(variables, batch) -> {"confidence", "correct", "loss"}, each [B], for calibration.

    logits_fn: (variables, raw images) -> logits [B, Z], of a network or of an ensemble.
    """

    def step(variables, batch):
        log_probabilities = jax.nn.log_softmax(logits_fn(variables, batch["image"]))
        return {
            "confidence": jnp.exp(jnp.max(log_probabilities, axis=-1)),
            "correct": jnp.argmax(log_probabilities, axis=-1) == batch["label"],
            "loss": -jnp.take_along_axis(log_probabilities, batch["label"][:, None], axis=-1)[:, 0],
        }

    return step
