"""Pre-activation ResNet of depth 9n + 2 with bottlenecks (He et al. 2016b), as in keras' cifar10_resnet.py."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from arada.models.layers import Conv, batch_norm, conv_norm


class ResNetV2(nn.Module):
    """The paper's ResNet-29 at `depth=29`: 843,786 trainable parameters for 32x32x3 images and 10 classes.

    Quirks of the original that are kept: convolutions have biases; a block is as wide inside as its predecessor is
    outside; the stride sits on the first 1x1; the very first block has no pre-activation of its own; the projection
    takes the raw input of its block.
    """

    num_classes: int
    depth: int = 29
    width: int = 16
    batch_norm: str = "global"
    batch_norm_momentum: float = 0.99
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalised images [B, H, W, C] to logits float32[B, Z]."""
        blocks, remainder = divmod(self.depth - 2, 9)
        if remainder or blocks < 1:
            raise ValueError(f"the depth of a ResNet v2 must be 9n + 2, not {self.depth}")
        # Keras' epsilon, and by default its momentum.
        momentum = self.batch_norm_momentum
        norm = batch_norm(self.batch_norm, train=train, momentum=momentum, epsilon=1e-3, dtype=self.dtype)

        def conv(features, size, strides=1):
            return Conv(features, (size, size), (strides, strides), use_bias=True, dtype=self.dtype)

        def conv_norm_relu(features, size, strides=1):
            return conv_norm(conv(features, size, strides), norm(relu=True))

        x = conv_norm_relu(self.width, 3)(x)
        inside = self.width
        for stage in range(3):
            outside = inside * (4 if stage == 0 else 2)
            for block in range(blocks):
                strides = 2 if stage > 0 and block == 0 else 1
                y = x if stage == block == 0 else norm(relu=True)(x)
                y = conv_norm_relu(inside, 1, strides)(y)
                y = conv_norm_relu(inside, 3)(y)
                y = conv(outside, 1)(y)
                x = (conv(outside, 1, strides)(x) if block == 0 else x) + y
            inside = outside
        x = jnp.mean(norm(relu=True)(x), axis=(1, 2), dtype=jnp.float32)
        head = nn.Dense(self.num_classes, kernel_init=nn.initializers.he_normal(), dtype=jnp.float32)
        return head(x)
