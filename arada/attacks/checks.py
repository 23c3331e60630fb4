"""Is this classifier fit to be attacked? Called once, on concrete arrays, before a ranking."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arada import inputs
from arada.attacks.result import Array, LogitsFn, l2_norm, margin


def check_images(images: Any) -> None:
    """Raises ValueError unless `images` are floats and, where they are concrete, finite and within [0, 1]."""
    images = inputs.as_array(images)
    wanted = "attacks take float images in [0, 1]"
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"{wanted}, not {inputs.described(images)}: divide 0..255 by 255")
    found = inputs.concrete(images)
    if found is None or not found.size:
        return
    low, high = float(found.min()), float(found.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ValueError(
            f"{wanted}, these range from {low:.3g} to {high:.3g}: divide 0..255 by 255, and normalise inside the "
            f"logits function"
        )


def prepared(logits_fn: LogitsFn, images: Any, labels: Any = None) -> tuple[Any, Any, Any]:
    """The inputs of every attack: its logits function, images float32[B, ...] and labels int[B].

    The function returned gives float32[B, Z], and raises ValueError when it is first called if `logits_fn` gives
    anything else or fewer than two classes, or if `labels` are out of range. Without labels it uses its predictions.
    An image whose label is out of range under jit becomes NaN, on which every attack fails.
    """
    check_images(images)
    images = jnp.asarray(images, jnp.float32)
    if images.ndim < 2 or not len(images):
        raise ValueError(f"images must be [B, ...] with one image or more, not {inputs.described(images)}")
    if labels is not None:
        labels = inputs.as_array(labels)

    def checked(points: jax.Array) -> Any:
        logits = inputs.class_scores("logits", logits_fn(points))
        if len(logits) != len(points) or not jnp.issubdtype(logits.dtype, jnp.floating):
            raise ValueError(
                f"the logits function must return floats [{len(points)}, Z] for images {inputs.described(points)}, "
                f"not {inputs.described(logits)}"
            )
        if labels is not None:
            inputs.whole_numbers("labels", labels, ("logits", logits), logits.shape[-1])
        return logits.astype(jnp.float32)

    if labels is None:
        return checked, images, jnp.argmax(checked(images), axis=-1)
    num_classes = jax.eval_shape(checked, images).shape[-1]
    labels = jnp.asarray(labels)
    is_class = jnp.reshape((labels >= 0) & (labels < num_classes), (-1,) + (1,) * (images.ndim - 1))
    return checked, jnp.where(is_class, images, jnp.nan), labels


def classifier_warnings(logits_fn: LogitsFn, images: Array) -> list[str]:
    """Warnings about this classifier that make an attack pointless; empty if there are none.

    Looks for probabilities in place of logits, outputs that ignore the input, gradients that vanish or are not
    finite, and outputs that differ from call to call. Raises ValueError for images outside [0, 1], and for outputs that
    are not [B, Z], of two classes or more, or not finite; -inf masks a class, if two others are left.
    """
    logits_fn, images, _ = prepared(logits_fn, images)
    logits = np.asarray(logits_fn(images))
    if np.isnan(logits).any() or np.isposinf(logits).any() or np.isfinite(logits).sum(axis=-1).min() < 2:
        raise ValueError("the classifier returns NaN or infinity; check its weights and normalisation")
    found = []
    if logits.min() >= 0 and np.allclose(logits.sum(axis=-1), 1, atol=1e-3):
        found.append("the classifier seems to return probabilities: attacks need logits, whose gradients do not vanish")
    if len(logits) > 1 and np.allclose(logits, logits[:1], atol=1e-6):
        found.append("the classifier gives every image the same output: distances will be infinite")
    if not np.array_equal(logits, np.asarray(logits_fn(images))):
        found.append("the classifier's output differs from call to call: switch off dropout and batch statistics")
    label = np.argmax(logits, axis=-1)
    gradient = jax.grad(lambda x: jnp.sum(margin(logits_fn(x), label)))(images)
    norm = np.asarray(l2_norm(gradient))
    for what, count in (("exactly zero", np.sum(norm == 0)), ("not finite", np.sum(~np.isfinite(norm)))):
        if count:
            found.append(f"the gradient of the top logit's margin is {what} on {count} of {len(norm)} images")
    return found
