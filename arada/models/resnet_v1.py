"""Post-activation ResNet with bottlenecks (He et al. 2016a) for ImageNet, as in edward2's ImageNet script."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from arada.models.layers import Conv, batch_norm
from arada.models.pooling import Padding, max_pool

# Blocks of the four groups by depth. The script has 50 only; 101 is the paper's own choice.
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# Which convolution of a group's first block has the stride.
STRIDE_ON = ("3x3", "1x1")
# Where maps of even size that a stride halves get their zeros: at the end alone ("same", TensorFlow's way) or on both
# sides ("both", PyTorch's).
PADDINGS = ("same", "both")


class ResNetV1(nn.Module):
    """The paper's ResNet-101 at `depth=101`: 44,549,160 trainable parameters for 1000 classes.

    `width` is the filters of the stem; blocks are 1, 2, 4 and 8 times as wide inside and four times that outside.
    `stride_on` is "3x3", the script's placement (also known as v1.5), or "1x1", He's. Choices of the script that are
    kept: convolutions have no biases; every scale starts at 1, also in the last batch norms; the stem pads by 3
    on all sides, other strides pad as TensorFlow does; the dense kernel starts as N(0, 0.01). Unlike the script,
    average and dense layer are float32 under bfloat16 too. With `padding="both"` it is torchvision's ResNet.
    """

    num_classes: int
    depth: int = 101
    width: int = 64
    batch_norm: str = "global"
    batch_norm_momentum: float = 0.9
    dtype: jnp.dtype = jnp.float32
    stride_on: str = "3x3"
    padding: str = "same"
    batch_norm_epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalised images [B, H, W, C] to logits float32[B, Z]."""
        if self.depth not in BLOCKS:
            raise ValueError(f"the depth of a ResNet v1 must be one of {sorted(BLOCKS)}, not {self.depth}")
        if self.stride_on not in STRIDE_ON:
            raise ValueError(f"stride_on must be one of {STRIDE_ON}, not {self.stride_on!r}")
        if self.padding not in PADDINGS:
            raise ValueError(f"padding must be one of {PADDINGS}, not {self.padding!r}")
        # PyTorch's constants by default.
        constants = {"momentum": self.batch_norm_momentum, "epsilon": self.batch_norm_epsilon}
        norm = batch_norm(self.batch_norm, train=train, dtype=self.dtype, **constants)
        halved: str | Padding = "SAME" if self.padding == "same" else ((1, 1), (1, 1))

        def conv(features, size, strides=1, padding="SAME"):
            if (size, strides) == (3, 2):
                padding = halved
            return Conv(features, (size, size), (strides, strides), padding, dtype=self.dtype)

        x = norm(relu=True)(conv(self.width, 7, 2, ((3, 3), (3, 3)))(x))
        x = max_pool(x, halved)
        for group, blocks in enumerate(BLOCKS[self.depth]):
            features = self.width * 2**group
            for block in range(blocks):
                strides = 2 if group > 0 and block == 0 else 1
                on_1x1, on_3x3 = (strides, 1) if self.stride_on == "1x1" else (1, strides)
                y = norm(relu=True)(conv(features, 1, on_1x1)(x))
                y = norm(relu=True)(conv(features, 3, on_3x3)(y))
                y = norm()(conv(4 * features, 1)(y))
                x = nn.relu((norm()(conv(4 * features, 1, strides)(x)) if block == 0 else x) + y)
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes, kernel_init=nn.initializers.normal(0.01), dtype=jnp.float32)(x)
