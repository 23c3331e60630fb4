"""Networks as flax.linen modules behind `init` and `apply(variables, images, train)`, built by name."""

import flax.linen as nn
import jax.numpy as jnp

from arada.models.classifier import logits_fn, normalize, unit_range
from arada.models.ensemble import mean_prediction, member_logits_fn, member_seeds
from arada.models.layers import BATCH_AXIS
from arada.models.resnet_v1 import ResNetV1
from arada.models.resnet_v2 import ResNetV2
from arada.models.wide_resnet import WideResNet

# The values of `config.model.name`; the other fields of `config.model` are the module's own.
BY_NAME = {"resnet_v1": ResNetV1, "resnet_v2": ResNetV2, "wide_resnet": WideResNet}


# The values of `config.model.dtype`: of the arithmetic. Parameters, statistics, averages and logits are float32.
DTYPES = ("float32", "bfloat16")


def build(name: str, num_classes: int, *, dtype: str = "float32", **fields) -> nn.Module:
    """The network called `name`. Raises ValueError for an unknown name or dtype."""
    if name not in BY_NAME:
        raise ValueError(f"model.name is one of {sorted(BY_NAME)}, not {name!r}")
    if dtype not in DTYPES:
        raise ValueError(f"model.dtype is one of {DTYPES}, not {dtype!r}")
    return BY_NAME[name](num_classes=num_classes, dtype=jnp.dtype(dtype), **fields)


__all__ = [
    "BATCH_AXIS",
    "BY_NAME",
    "DTYPES",
    "ResNetV1",
    "ResNetV2",
    "WideResNet",
    "build",
    "logits_fn",
    "mean_prediction",
    "member_logits_fn",
    "member_seeds",
    "normalize",
    "unit_range",
]
