"""Is this classifier fit to be attacked? Called once, on concrete arrays, before a ranking."""

import jax
import jax.numpy as jnp
import numpy as np

from arada.attacks.result import Array, LogitsFn, l2_norm, margin


def check_images(images: Array) -> None:
    """Raises ValueError unless `images` are finite and within [0, 1]."""
    images = np.asarray(images)
    low, high = float(images.min()), float(images.max())
    if not (np.isfinite(low) and np.isfinite(high) and low >= 0 and high <= 1):
        raise ValueError(
            f"attacks take images in [0, 1], these reach from {low:.3g} to {high:.3g}: "
            f"divide by 255 and normalise inside the logits function"
        )


def classifier_warnings(logits_fn: LogitsFn, images: Array) -> list[str]:
    """What makes an attack on this classifier pointless, in words; empty if nothing does.

    Looks for probabilities in place of logits, outputs that ignore the input, gradients that vanish or are not
    finite, and outputs that differ from call to call. Raises ValueError for images outside [0, 1] and for outputs that
    are not finite.
    """
    check_images(images)
    images = jnp.asarray(images, jnp.float32)
    logits = np.asarray(logits_fn(images))
    if not np.isfinite(logits).all():
        raise ValueError("the classifier returns values that are not finite")
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
