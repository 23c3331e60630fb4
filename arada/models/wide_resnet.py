"""Wide ResNet of depth 6n + 4 (Zagoruyko & Komodakis 2016), as in edward2's `wide_resnet` version 2."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from arada.models.layers import Conv, batch_norm


class WideResNet(nn.Module):
    """The paper's WRN-28-10 at `depth=28, width=10`: 36,479,194 trainable parameters for 10 classes.

    `width` multiplies the 16, 32 and 64 filters of the three groups. Quirks of the original that are kept:
    convolutions have no biases, the dense layer has one; nothing follows the first convolution; a projection takes the
    raw input of its block, where Zagoruyko's takes the activated one; there is no dropout.
    """

    num_classes: int
    depth: int = 28
    width: int = 10
    batch_norm: str = "global"
    batch_norm_momentum: float = 0.9
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalised images [B, H, W, C] to logits float32[B, Z]."""
        blocks, remainder = divmod(self.depth - 4, 6)
        if remainder or blocks < 1:
            raise ValueError(f"the depth of a wide ResNet must be 6n + 4, not {self.depth}")
        momentum = self.batch_norm_momentum
        norm = batch_norm(self.batch_norm, train=train, momentum=momentum, epsilon=1e-5, dtype=self.dtype)

        def conv(features, size, strides=1):
            # Padding is TensorFlow's: with stride 2 an even map gets its one row and column of zeros at the end.
            return Conv(features, (size, size), (strides, strides), dtype=self.dtype)

        x = conv(16, 3)(x)
        for group in range(3):
            features = 16 * 2**group * self.width
            for block in range(blocks):
                strides = 2 if group > 0 and block == 0 else 1
                y = conv(features, 3, strides)(norm(relu=True)(x))
                y = conv(features, 3)(norm(relu=True)(y))
                x = (x if x.shape == y.shape else conv(features, 1, strides)(x)) + y
        x = jnp.mean(norm(relu=True)(x), axis=(1, 2), dtype=jnp.float32)
        head = nn.Dense(self.num_classes, kernel_init=nn.initializers.he_normal(), dtype=jnp.float32)
        return head(x)
