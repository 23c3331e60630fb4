"""Layers that all networks share: a convolution, batch norm over a named axis, and one after the other.

`arada.models.cpu` computes them: by its own fast programs on a CPU, and by XLA's operations elsewhere.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from arada.models import cpu

# The name of the device axis: `global` batch norm averages its statistics over it.
BATCH_AXIS = "batch"


class Conv(nn.Module):
    """A 2-D convolution with He-normal kernels (truncated, fan in), float32 parameters and `dtype` arithmetic."""

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: str | tuple[tuple[int, int], ...] = "SAME"
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, bias_apart: bool = False) -> jax.Array | tuple[jax.Array, jax.Array | float]:
        """[B, H, W, C] to [B, H', W', features]; with `bias_apart` a pair, the bias [features] not yet added."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else 0.0
        y = cpu.convolution(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.padding)
        if bias_apart:
            return y, bias
        return y + jnp.asarray(bias, self.dtype) if self.use_bias else y


class BatchNorm(nn.Module):
    """Batch norm over all axes but the last, and ReLU after it if asked for. It has the parameters and statistics of
    `flax.linen.BatchNorm`, names included."""

    train: bool
    momentum: float
    epsilon: float
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32
    relu: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, bias_of_x: jax.Array | float = 0.0) -> jax.Array:
        """[B, ..., C] to the same shape, in `dtype`: the norm of x + bias_of_x.

        In training the bias cancels: it only moves the running mean, and its gradient is exactly 0.
        """
        shape = (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        if not self.train:
            inverse = lax.rsqrt(variance.value + self.epsilon)
            y = ((x - (mean.value - bias_of_x)) * (inverse * scale) + bias).astype(self.dtype)
            return nn.relu(y) if self.relu else y
        # Initialisation runs outside the mapped step, where the axis is unknown.
        axis_name = None if self.is_initializing() else self.axis_name
        y, batch_mean, batch_variance = cpu.batch_norm(
            x.astype(self.dtype), scale, bias, epsilon=self.epsilon, relu=self.relu, axis_name=axis_name
        )
        if not self.is_initializing():
            for running, now in ((mean, batch_mean + lax.stop_gradient(bias_of_x)), (variance, batch_variance)):
                running.value = self.momentum * running.value + (1 - self.momentum) * now
        return y


def batch_norm(
    kind: str, *, train: bool, momentum: float, epsilon: float, dtype=jnp.float32
) -> Callable[..., BatchNorm]:
    """A constructor of batch norms; `kind` is "global" (statistics of the whole batch) or "per_device".

    `global` needs the mapped step's axis in training. In `per_device` the running statistics differ by device until
    the step averages them.
    """
    axis = {"global": BATCH_AXIS, "per_device": None}[kind]
    return functools.partial(
        BatchNorm, train=train, momentum=momentum, epsilon=epsilon, axis_name=axis if train else None, dtype=dtype
    )


def conv_norm(conv: Conv, norm: BatchNorm) -> Callable[[jax.Array], jax.Array]:
    """`norm` of `conv`; a bias of the convolution, which the norm cancels, costs nothing in training."""
    return lambda x: norm(*conv(x, bias_apart=True))
