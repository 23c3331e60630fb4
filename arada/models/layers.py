"""Layers that all networks share: a convolution that is fast on every platform, and batch norm over a named axis."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# The name of the device axis: `global` batch norm averages its statistics over it.
BATCH_AXIS = "batch"

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# On TPU and GPU the stock convolution is the right one. XLA:CPU has slow spots, measured in processor time on two
# AVX-512 cores with jax 0.10.2:
#   a 1x1 convolution runs at a third of the same matrix product;
#   one whose kernel is larger than its map (3x3 on 2x2) runs at a thirtieth of the product of its patches with the
#   kernel;
#   inside a loop the input gradient runs at a twelfth, for it reverses the kernel in every turn (this decides the speed
#   of an attack), so the flip is written out as an ordinary convolution;
#   the kernel gradient of a 3x3 one takes the batch for channels: from a batch of 64 on it runs at a half to a third of
#   the product below.
# All are mended below, by platform, when the program is lowered.
# Pixels in one turn of the kernel gradient, whose patches then stay in the cache.
_TURN = 32 * 32
# Up to here, in images and in pixels of a map, the stock kernel gradient is as fast.
_FEW_IMAGES = 16
_SMALL_MAP = 4 * 4


def _stock(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_DIMENSIONS)


def _backward_stock(x, kernel, cotangent, strides, padding):
    return jax.vjp(lambda x, kernel: _stock(x, kernel, strides, padding), x, kernel)[1](cotangent)


def _pointwise(x, kernel, strides):
    x = x[:, :: strides[0], :: strides[1]]
    return jnp.dot(x.reshape(-1, x.shape[-1]), kernel[0, 0]).reshape(*x.shape[:-1], kernel.shape[-1])


def _patches(x, kernel):
    """A `SAME` convolution of stride 1 with an odd kernel as one matrix product."""
    height, width = kernel.shape[:2]
    padded = jnp.pad(x, ((0, 0), (height // 2,) * 2, (width // 2,) * 2, (0, 0)))
    shifted = [padded[:, i : i + x.shape[1], j : j + x.shape[2]] for i in range(height) for j in range(width)]
    patches = jnp.concatenate(shifted, axis=-1).reshape(-1, height * width * x.shape[-1])
    return jnp.dot(patches, kernel.reshape(patches.shape[-1], -1)).reshape(*x.shape[:-1], kernel.shape[-1])


def _kernel_gradient(x, cotangent, height, width):
    """The kernel's gradient in a `SAME` convolution of stride 1 with an odd kernel, as one product a few images.

    x is unrolled along the width and the cotangent along the height, which makes both sides of the product wide (three
    times their channels) where plain patches would make one side nine times as wide and leave the other narrow.
    """

    def unrolled(a, axis, shifts):
        most = len(shifts) // 2
        padded = jnp.pad(a, [(most, most) if i == axis else (0, 0) for i in range(4)])
        parts = [lax.slice_in_dim(padded, shift, shift + a.shape[axis], axis=axis) for shift in shifts]
        return jnp.concatenate(parts, axis=-1).reshape(-1, len(shifts) * a.shape[-1])

    def add_some(total, some):
        columns, rows = unrolled(some[0], 2, range(width)), unrolled(some[1], 1, range(height)[::-1])
        return total + lax.dot_general(
            columns, rows, (((0,), (0,)), ((), ())), preferred_element_type=total.dtype
        ), None

    batch, channels, features = x.shape[0], x.shape[-1], cotangent.shape[-1]
    most = max(2, _TURN // (x.shape[1] * x.shape[2]))
    turn = next(n for n in range(most, 0, -1) if batch % n == 0)
    turns = [a.reshape(batch // turn, turn, *a.shape[1:]) for a in (x, cotangent)]
    # Not in bfloat16, which would round in every turn.
    zeros = jnp.zeros((width * channels, height * features), jnp.promote_types(x.dtype, jnp.float32))
    total, _ = lax.scan(add_some, zeros, turns)
    return total.reshape(width, channels, height, features).transpose(2, 0, 1, 3).astype(x.dtype)


def _pointwise_on(kernel, padding) -> bool:
    return kernel.shape[:2] == (1, 1) and padding in ("SAME", "VALID")


def _keeps_size(kernel, strides, padding) -> bool:
    return strides == (1, 1) and padding == "SAME" and kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1


def _forward_on_cpu(x, kernel, strides, padding):
    if _pointwise_on(kernel, padding):
        return _pointwise(x, kernel, strides)
    larger_than_map = kernel.shape[0] > x.shape[1] > 1 or kernel.shape[1] > x.shape[2] > 1
    if _keeps_size(kernel, strides, padding) and larger_than_map:
        return _patches(x, kernel)
    return _stock(x, kernel, strides, padding)


def _backward_on_cpu(x, kernel, cotangent, strides, padding):
    if _pointwise_on(kernel, padding):
        return jax.vjp(functools.partial(_pointwise, strides=strides), x, kernel)[1](cotangent)
    if _keeps_size(kernel, strides, padding):
        dx = _forward_on_cpu(cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), strides, padding)
        if len(x) > _FEW_IMAGES and x.shape[1] * x.shape[2] > _SMALL_MAP:
            return dx, _kernel_gradient(x, cotangent, *kernel.shape[:2])
        return dx, _backward_stock(x, kernel, cotangent, strides, padding)[1]
    return _backward_stock(x, kernel, cotangent, strides, padding)


def _by_platform(on_cpu: Callable, stock: Callable, *arrays, strides, padding):
    choices = (functools.partial(f, strides=strides, padding=padding) for f in (on_cpu, stock))
    return lax.platform_dependent(*arrays, **dict(zip(("cpu", "default"), choices, strict=True)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(x: jax.Array, kernel: jax.Array, strides: tuple[int, int] = (1, 1), padding="SAME") -> jax.Array:
    """2-D convolution of x [B, H, W, C] with kernel [h, w, C, D], by the fastest way the platform has.

    For reverse mode only: forward mode (`jax.jvp`, `jax.linearize`) raises TypeError.
    """
    return _by_platform(_forward_on_cpu, _stock, x, kernel, strides=strides, padding=padding)


def _convolution_forward(x, kernel, strides, padding):
    return convolution(x, kernel, strides, padding), (x, kernel)


def _convolution_backward(strides, padding, residuals, cotangent):
    return _by_platform(_backward_on_cpu, _backward_stock, *residuals, cotangent, strides=strides, padding=padding)


convolution.defvjp(_convolution_forward, _convolution_backward)


class Conv(nn.Module):
    """A 2-D convolution with He-normal kernels (truncated, fan in), float32 parameters and `dtype` arithmetic."""

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: str | tuple[tuple[int, int], ...] = "SAME"
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, H', W', features]."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        y = convolution(x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.padding)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y


def batch_norm(
    kind: str, *, train: bool, momentum: float, epsilon: float, dtype=jnp.float32
) -> Callable[..., nn.Module]:
    """A constructor of batch norms; `kind` is "global" (statistics of the whole batch) or "per_device".

    `global` needs the mapped step's axis in training. In `per_device` the running statistics differ by device until
    the step averages them.
    """
    axis = {"global": BATCH_AXIS, "per_device": None}[kind]
    return functools.partial(
        nn.BatchNorm,
        use_running_average=not train,
        axis_name=axis if train else None,
        momentum=momentum,
        epsilon=epsilon,
        dtype=dtype,
    )
