"""Whether the device computes correctly, compared with float64 on the host and with distances known by arithmetic."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from arada import attacks
from arada.machines.findings import Finding
from arada.models.cpu import convolution, stock_convolution

# Relative errors of sums of a few hundred terms: below 1e-6 in float32, about 1e-4 in TF32 and 1e-3 in bfloat16.
TOLERANCE = 1e-5
# The default precision of float32 products, by the largest relative error of a matrix product.
PRECISIONS = ((1e-5, "float32"), (1.5e-3, "TF32"), (np.inf, "bfloat16"))
# The largest ratio of the distances that FMN and CW find on a linear classifier to the true ones.
OVERSHOOT = {"fmn_l2": 1.05, "cw_l2": 1.10}


def findings() -> Iterator[Finding]:
    """Findings on the first device."""
    yield _precision()
    yield _close("convolution", _network, TOLERANCE)
    yield _close("gradient", lambda *a: jax.grad(lambda *b: jnp.sum(jnp.square(_network(*b))), (1, 2))(*a), TOLERANCE)
    yield _attack(attacks.fmn_l2, steps=20)
    yield _attack(attacks.cw_l2, binary_search_steps=5, max_iterations=150, learning_rate=0.02)


def _precision() -> Finding:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((256, 256)).astype(np.float32) for _ in range(2))
    error = _relative(jax.jit(jnp.matmul)(a, b), a.astype(np.float64) @ b.astype(np.float64))
    name = next(name for limit, name in PRECISIONS if error < limit)
    text = f"float32 matrix products are {name} in training (error {error:.1g}), float32 in rankings and evaluation"
    return Finding("precision", "ok", text, values={"default": name, "relative_error": error})


def _network(conv: Callable, images, kernels) -> jax.Array:
    """Two convolutions by `conv`, with a ReLU between them."""
    first, second = kernels
    return conv(jax.nn.relu(conv(images, first)), second)


def _close(subject: str, function: Callable, tolerance: float) -> Finding:
    """`function`(conv, images, kernels) on the device in float32, against float64 on the host."""
    rng = np.random.default_rng(1)
    images = rng.standard_normal((32, 16, 16, 16))
    kernels = tuple(rng.standard_normal((3, 3, 16, 16)) / 12 for _ in range(2))
    with jax.default_matmul_precision("float32"):
        small = jax.tree.map(np.float32, (images, kernels))
        found = jax.device_get(jax.jit(functools.partial(function, convolution))(*small))
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        exact = jax.device_get(jax.jit(functools.partial(function, stock_convolution))(images, kernels))
    error = max(map(_relative, jax.tree.leaves(found), jax.tree.leaves(exact)))
    text = f"differs from float64 by {error:.1g} of the largest value"
    values = {"relative_error": error, "tolerance": tolerance}
    if error <= tolerance:
        return Finding(subject, "ok", text, values=values)
    return Finding(subject, "wrong", f"{text}, more than {tolerance:.0e}", "update JAX and the driver", values)


def _relative(found, exact) -> float:
    return float(np.max(np.abs(np.asarray(found) - exact)) / np.max(np.abs(exact)))


def _attack(attack: Callable, **settings) -> Finding:
    """An attack on a linear classifier of two classes, with the known distances |margin| / |weights|."""
    rng = np.random.default_rng(2)
    weights, images = rng.standard_normal((48, 2)), 0.5 + 0.1 * rng.uniform(-1, 1, (128, 4, 4, 3))
    weights, images = weights.astype(np.float32), images.astype(np.float32)
    margins = (images.reshape(len(images), -1) - 0.5).astype(np.float64) @ (weights[:, 0] - weights[:, 1])
    true = np.abs(margins) / np.linalg.norm(weights[:, 0] - weights[:, 1])

    def logits(weights, images):
        return (images.reshape(len(images), -1) - 0.5) @ weights

    @jax.jit
    def attacked(weights, images):
        return attack(functools.partial(logits, weights), images, **settings).distance

    # Without the nearest fifth: the attacks find them to a step's length, not to a share of their distance.
    ratio = (np.asarray(attacked(weights, images)) / true)[true > np.quantile(true, 0.2)]
    subject, least, most = attack.__name__, float(ratio.min()), float(ratio.max())
    text = f"distances are {least:.4f} to {most:.4f} times the true distances of a linear classifier"
    values = {"least_ratio": least, "greatest_ratio": most}
    if least >= 0.999 and most <= OVERSHOOT[subject]:
        return Finding(subject, "ok", text, values=values)
    return Finding(
        subject,
        "wrong",
        f"{text}, not 1 to {OVERSHOOT[subject]}",
        "do not trust rankings; update JAX and the driver",
        values,
    )
