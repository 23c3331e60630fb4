"""The digits config with a network of one convolution, for tests in which the network does not matter.

Tests of stages, kills and hosts mostly compile, and this compiles several times as fast as the ResNet of depth 11. In
the process of a test the fixture `one_convolution` makes the `testing` preset use it; other processes take this file,
`--config=tests/shared/one_convolution.py:ar_adals,testing`.
"""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp

from arada import models
from arada.models.layers import Conv, batch_norm
from configs import digits

# For --config, where the working directory may be another.
CONFIG = str(pathlib.Path(__file__).resolve())
NAME = "one_convolution"


class OneConvolution(nn.Module):
    """A 3x3 convolution of stride 2, batch norm and a dense layer, with the fields of a ResNet."""

    num_classes: int
    depth: int = 1
    width: int = 4
    batch_norm: str = "global"
    batch_norm_momentum: float = 0.75
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalised images [B, H, W, C] to logits float32[B, Z]."""
        momentum = self.batch_norm_momentum
        norm = batch_norm(self.batch_norm, train=train, momentum=momentum, epsilon=1e-3, dtype=self.dtype)
        x = norm(relu=True)(Conv(2 * self.width, strides=(2, 2), dtype=self.dtype)(x))
        return nn.Dense(self.num_classes, dtype=jnp.float32)(x.reshape(*x.shape[:1], -1).astype(jnp.float32))


def get_config(presets: str = ""):
    models.register(NAME, OneConvolution)
    config = digits.get_config(presets)
    config.model.name = NAME
    return config
