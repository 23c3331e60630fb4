"""Max pooling whose gradient is the same in every run."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# Zeros before and after each of the two axes.
Padding = tuple[tuple[int, int], tuple[int, int]]


def max_pool(x: jax.Array, padding: str | Padding = "SAME", window: int = 3, stride: int = 2) -> jax.Array:
    """The maxima of windows of x [B, H, W, C].

    The gradient of the stock operation is a select-and-scatter, whose sums CUDA adds up in any order, so that
    deterministic programs would do it pixel by pixel. There it is a maximum of slices, which share a tie's gradient.
    """
    return lax.platform_dependent(
        x,
        cuda=lambda x: _of_slices(x, padding, window, stride),
        default=lambda x: nn.max_pool(x, (window, window), (stride, stride), padding),
    )


def _of_slices(x: jax.Array, padding: str | Padding, window: int, stride: int) -> jax.Array:
    pads: Any = padding
    if isinstance(padding, str):
        pads = lax.padtype_to_pads(x.shape[1:3], (window, window), (stride, stride), padding)
    padded = jnp.pad(x, [(0, 0), *pads, (0, 0)], constant_values=-jnp.inf)
    height, width = ((size - window) // stride + 1 for size in padded.shape[1:3])
    maximum = jnp.full((len(x), height, width, x.shape[-1]), -jnp.inf, x.dtype)
    for row in range(window):
        for column in range(window):
            rows, columns = slice(row, row + height * stride, stride), slice(column, column + width * stride, stride)
            maximum = jnp.maximum(maximum, padded[:, rows, columns][:, :height, :width])
    return maximum
