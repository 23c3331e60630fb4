"""Convolutions and matrix products by oneDNN, which jaxlib for Linux on x86-64 contains; float32 on a CPU.

XLA has no public interface to oneDNN: these are the custom calls of its own rewrites, with undocumented configs. A
wrong config aborts the process, and the fields differ between versions of jaxlib: call nothing here before the trial of
`arada.runtime.kernels`. jaxlib cannot serialise a program with such a call, neither for `jax.export` nor for the
persistent compilation cache.
"""

import json

import jax
import jax.numpy as jnp
from jax import lax

_IMAGES = {"data": {"batch_dim": "0", "feature_dim": "3", "spatial_dims": ["1", "2"]}}


def supports(*arrays: jax.Array) -> bool:
    """Whether oneDNN can compute with these arrays."""
    return all(a.dtype == jnp.float32 and 0 not in a.shape for a in arrays)


def convolution(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding) -> jax.Array:
    """2-D convolution of x [B, H, W, C] with kernel [h, w, C, D]; `padding` as in `lax.conv_general_dilated`."""
    pads = (
        lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding) if isinstance(padding, str) else padding
    )
    return _convolution(x, kernel, strides, pads, ("2", "3"), kernel.shape[3])


def input_gradient(kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
    """The gradient by x of a `SAME` convolution of stride 1 with an odd kernel, for a cotangent [B, H, W, D]."""
    pads = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return _convolution(cotangent, jnp.flip(kernel, (0, 1)), (1, 1), pads, ("3", "2"), kernel.shape[2])


def is_stride_two(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding) -> bool:
    """Whether this is a `SAME` convolution of stride 2 with a 3x3 kernel, on a map of even size."""
    even = x.shape[1] % 2 == x.shape[2] % 2 == 0
    return even and kernel.shape[:2] == (3, 3) and tuple(strides) == (2, 2) and padding == "SAME"


def gradients_of_stride_two(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradients by x [B, 2H, 2W, C] and by the kernel where `is_stride_two`, for a cotangent [B, H, W, D].

    In one dimension y_i = k_0 x_2i + k_1 x_2i+1 + k_2 x_2i+2, so that dx_2i = k_2 dy_i-1 + k_0 dy_i and
    dx_2i+1 = k_1 dy_i: in two dimensions four small convolutions, interleaved. Each tap of dk is a matrix product.
    """
    even, odd = (slice(None, None, -2), (1, 0)), (slice(1, 2), (0, 0))  # taps, padding of y

    def part(rows, columns):
        taps = kernel[rows[0], columns[0]]
        return _convolution(cotangent, taps, (1, 1), (rows[1], columns[1]), ("3", "2"), kernel.shape[2])

    height, width = cotangent.shape[1:3]
    rows_of_pairs = [jnp.stack([part(rows, columns) for columns in (even, odd)], 3) for rows in (even, odd)]
    padded, flat = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))), cotangent.reshape(-1, cotangent.shape[-1])

    def tap(i, j):
        seen = padded[:, i : i + 2 * height : 2, j : j + 2 * width : 2]
        return transposed_product(seen.reshape(-1, x.shape[-1]), flat)

    d_kernel = jnp.stack([jnp.stack([tap(i, j) for j in range(3)]) for i in range(3)])
    return jnp.stack(rows_of_pairs, 2).reshape(x.shape), d_kernel


def transposed_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x^T y [C, D] of x [N, C] and y [N, D]."""
    config = {"onednn_matmul_config": {"transpose_a": True, "transpose_b": False}}
    return _call("matmul", config, (x.shape[1], y.shape[1]), x, y)


def _convolution(x, kernel, strides, pads, channel_axes, features):
    """`channel_axes` of the kernel: of x and of the result, which has `features` channels."""
    size = kernel.shape[:2]
    out = [
        (length + sum(pad) - extent) // stride + 1
        for length, pad, extent, stride in zip(x.shape[1:3], pads, size, strides, strict=True)
    ]
    axes = {"input_feature_dim": channel_axes[0], "output_feature_dim": channel_axes[1], "spatial_dims": ["0", "1"]}
    low, high = zip(*pads, strict=True)
    window = {"size": size, "pad_left": low, "pad_right": high, "strides": strides, "window_dilations": (1, 1)}
    config = {
        "dims": "4",
        "feature_groups": "1",
        "input": _IMAGES,
        "output": _IMAGES,
        "kernel": {"filter": axes},
        "window": {field: [str(value) for value in values] for field, values in window.items()},
    }
    return _call("convolution", {"onednn_conv_config": config}, (x.shape[0], *out, features), x, kernel)


def _call(name: str, config: dict, shape: tuple[int, ...], *arrays: jax.Array) -> jax.Array:
    return jax.ffi.ffi_call(
        f"__onednn${name}",
        jax.ShapeDtypeStruct(shape, jnp.float32),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(config),
        vmap_method="sequential",
    )(*arrays)
