"""Faster convolution and batch norm for CPUs, and the choice between these and XLA's.

On TPU and GPU XLA's own operations are the right ones, and are lowered there: `lax.platform_dependent` chooses when a
program is lowered, so one traced program fits every platform. The networks see none of this.

XLA:CPU has slow spots, measured in processor time on two AVX-512 cores with jax 0.10.2:
- A 1x1 convolution runs at a third of the speed of the same matrix product.
- A convolution whose kernel is larger than its map (3x3 on 2x2) runs at a thirtieth of the speed of the product of its
  patches with the kernel.
- Inside a loop, the input gradient of a convolution runs at a twelfth of its speed, because the kernel is reversed in
  every turn. That decides the speed of an attack. The flip is written out as an ordinary convolution.
- The kernel gradient of a 3x3 convolution treats the batch as channels: from a batch of 64 on it runs at a half to a
  third of the speed of the product below.
- The gradient of batch norm and ReLU, as autodiff makes it, passes over the map more often than it must.

Programs traced inside `kernels("onednn")` call oneDNN: 1.2 to 1.5 times as fast for a 3x3 convolution and its input
gradient, 1.0 to 1.9 times for the kernel gradient of a 1x1 convolution (two AVX2 cores). Where oneDNN is not faster
(1x1 forward, few pixels), and for other types than float32, they do as above.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import lax

from arada.models import onednn

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# Pixels in one turn of the kernel gradient, whose patches then stay in the cache.
_TURN = 32 * 32
# Up to this size, in images and in pixels of a map, the stock kernel gradient is as fast.
_FEW_IMAGES = 16
_SMALL_MAP = 4 * 4
# With oneDNN, whose longer products gain more than the cache loses.
_TURN_OF_ONEDNN = 64 * 64
# oneDNN rearranges the kernel in every call; with fewer pixels in a batch the call is slower than XLA's.
_MANY_PIXELS = 512

KERNELS = ("stock", "onednn")
_kernels = contextvars.ContextVar("kernels", default="stock")


@contextlib.contextmanager
def kernels(name: str) -> Iterator[None]:
    """A context, or a decorator, in which traced convolutions use these `KERNELS` on CPUs; other platforms ignore it.

    Call `arada.runtime.kernels.choose` before "onednn": on an untested machine its programs may abort the process.
    """
    before = _kernels.set(name)
    try:
        yield
    finally:
        _kernels.reset(before)


def stock_convolution(x, kernel, strides=(1, 1), padding="SAME"):
    """`convolution` by XLA."""
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_DIMENSIONS)


def _backward_stock(x, kernel, cotangent, strides, padding):
    return jax.vjp(lambda x, kernel: stock_convolution(x, kernel, strides, padding), x, kernel)[1](cotangent)


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


def _transposed_product(x, y):
    return lax.dot_general(
        x, y, (((0,), (0,)), ((), ())), preferred_element_type=jnp.promote_types(x.dtype, jnp.float32)
    )


def _kernel_gradient(x, cotangent, height, width, product=_transposed_product, pixels=_TURN):
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
        return total + product(columns, rows), None

    batch, channels, features = x.shape[0], x.shape[-1], cotangent.shape[-1]
    most = max(2, pixels // (x.shape[1] * x.shape[2]))
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
    return stock_convolution(x, kernel, strides, padding)


def _backward_on_cpu(x, kernel, cotangent, strides, padding):
    if _pointwise_on(kernel, padding):
        return jax.vjp(functools.partial(_pointwise, strides=strides), x, kernel)[1](cotangent)
    if _keeps_size(kernel, strides, padding):
        dx = _forward_on_cpu(cotangent, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), strides, padding)
        if len(x) > _FEW_IMAGES and x.shape[1] * x.shape[2] > _SMALL_MAP:
            return dx, _kernel_gradient(x, cotangent, *kernel.shape[:2])
        return dx, _backward_stock(x, kernel, cotangent, strides, padding)[1]
    return _backward_stock(x, kernel, cotangent, strides, padding)


def _forward_by_onednn(x, kernel, strides, padding):
    y = functools.partial(onednn.convolution, x, kernel, strides, padding)
    pays = not _pointwise_on(kernel, padding) and onednn.supports(x, kernel)
    return y() if pays and _has_many_pixels(x) else _forward_on_cpu(x, kernel, strides, padding)


def _backward_by_onednn(x, kernel, cotangent, strides, padding):
    # XLA drops what is replaced below.
    dx, d_kernel = _backward_on_cpu(x, kernel, cotangent, strides, padding)
    if not onednn.supports(x, kernel, cotangent):
        return dx, d_kernel
    if _pointwise_on(kernel, padding):
        x = x[:, :: strides[0], :: strides[1]]
        product = onednn.transposed_product(*(a.reshape(-1, a.shape[-1]) for a in (x, cotangent)))
        return dx, product[None, None]
    if _keeps_size(kernel, strides, padding):
        if _has_many_pixels(x):
            dx = onednn.input_gradient(kernel, cotangent)
        product = onednn.transposed_product
        return dx, _kernel_gradient(x, cotangent, *kernel.shape[:2], product, _TURN_OF_ONEDNN)
    if onednn.is_stride_two(x, kernel, strides, padding):
        return onednn.gradients_of_stride_two(x, kernel, cotangent)
    return dx, d_kernel


def _has_many_pixels(x) -> bool:
    return x.size // x.shape[-1] >= _MANY_PIXELS


def _by_platform(on_cpu: Callable, stock: Callable, *arrays, strides, padding):
    choices = (functools.partial(f, strides=strides, padding=padding) for f in (on_cpu, stock))
    return lax.platform_dependent(*arrays, **dict(zip(("cpu", "default"), choices, strict=True)))


_ON_CPU = {
    "stock": (_forward_on_cpu, _backward_on_cpu),
    "onednn": (_forward_by_onednn, _backward_by_onednn),
}


def convolution(x: jax.Array, kernel: jax.Array, strides: tuple[int, int] = (1, 1), padding="SAME") -> jax.Array:
    """2-D convolution of x [B, H, W, C] with kernel [h, w, C, D], by the fastest way on the platform (`kernels`).

    For reverse mode only: forward mode (`jax.jvp`, `jax.linearize`) raises TypeError.
    """
    return _convolution(x, kernel, strides, padding, _kernels.get())


# `kernels` is an argument, so that a gradient uses those of its convolution, wherever it is traced.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolution(x, kernel, strides, padding, kernels):
    return _by_platform(_ON_CPU[kernels][0], stock_convolution, x, kernel, strides=strides, padding=padding)


def _convolution_forward(x, kernel, strides, padding, kernels):
    return _convolution(x, kernel, strides, padding, kernels), (x, kernel)


def _convolution_backward(strides, padding, kernels, residuals, cotangent):
    on_cpu = _ON_CPU[kernels][1]
    return _by_platform(on_cpu, _backward_stock, *residuals, cotangent, strides=strides, padding=padding)


_convolution.defvjp(_convolution_forward, _convolution_backward)


def _moments(x, axis_name):
    """Mean and variance [C] of x [..., C] over all other axes and over the devices, in float32 at least."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(x.ndim - 1))
    # Mean of squares less squared mean: one pass over x, and one message between devices.
    moments = jnp.stack([jnp.mean(x, axes), jnp.mean(lax.square(x), axes)])
    mean, mean_square = moments if axis_name is None else lax.pmean(moments, axis_name)
    return mean, jnp.maximum(mean_square - lax.square(mean), 0)


def stock_batch_norm(x, scale, bias, *, epsilon, relu=False, axis_name=None):
    """`batch_norm` as in flax, differentiated by JAX."""
    mean, variance = _moments(x, axis_name)
    y = ((x - mean) * (lax.rsqrt(variance + epsilon) * scale) + bias).astype(x.dtype)
    return jax.nn.relu(y) if relu else y, lax.stop_gradient(mean), lax.stop_gradient(variance)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _norm_on_cpu(x, scale, bias, epsilon, relu, axis_name):
    return _norm_forward(x, scale, bias, epsilon, relu, axis_name)[0]


def _norm_forward(x, scale, bias, epsilon, relu, axis_name):
    mean, variance = _moments(x, axis_name)
    inverse = lax.rsqrt(variance + epsilon)
    slope = scale * inverse
    offset = bias - mean * slope
    y = slope * x + offset
    y = (jnp.maximum(y, 0) if relu else y).astype(x.dtype)
    # Without the barrier XLA computes y twice, for the next layer and for that layer's gradient.
    return (lax.optimization_barrier(y), mean, variance), (x, slope, offset, mean, inverse)


def _norm_backward(epsilon, relu, axis_name, residuals, cotangents):
    x, slope, offset, mean, inverse = residuals
    dy = cotangents[0]  # no gradient flows through the statistics: `stock_batch_norm` stops it likewise
    if relu:
        # Two sums and dx read it: without the barrier each of them would compare and select again.
        dy = lax.optimization_barrier(jnp.where(slope * x + offset > 0, dy, 0))
    axes = tuple(range(x.ndim - 1))
    d_bias = jnp.sum(dy, axes, dtype=mean.dtype)
    d_scale = (jnp.sum(dy * x.astype(mean.dtype), axes) - mean * d_bias) * inverse
    means = jnp.stack([d_bias, d_scale]) * (mean.size / x.size)
    mean_1, mean_2 = means if axis_name is None else lax.pmean(means, axis_name)
    # slope * (dy - mean_1 - (x - mean) * inverse * mean_2), with the constants taken together.
    by_x = slope * mean_2 * inverse
    dx = slope * dy - by_x * x + (by_x * mean - slope * mean_1)
    return dx.astype(x.dtype), d_scale, d_bias


_norm_on_cpu.defvjp(_norm_forward, _norm_backward)


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    epsilon: float,
    relu: bool = False,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x [..., C] normalised by its own statistics, and ReLU of it if asked for; with mean and variance, each [C].

    Statistics are float32 and, with `axis_name`, of all devices; no gradient flows through the two that are returned.
    """
    stock = functools.partial(stock_batch_norm, epsilon=epsilon, relu=relu, axis_name=axis_name)

    def on_cpu(x, scale, bias):
        return _norm_on_cpu(x, scale, bias, epsilon, relu, axis_name)

    return lax.platform_dependent(x, scale, bias, cpu=on_cpu, default=stock)
