"""Networks as flax.linen modules behind `init` and `apply(variables, images, train)`, built by name."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from arada.models.classifier import check_network, logits_fn, normalize, unit_range
from arada.models.ensemble import mean_prediction, member_logits_fn, member_seeds
from arada.models.layers import BATCH_AXIS
from arada.models.resnet_v1 import ResNetV1
from arada.models.resnet_v2 import ResNetV2
from arada.models.wide_resnet import WideResNet
from arada.registry import Registry

# The values of `config.model.name`; the other fields of `config.model` are the module's own.
BY_NAME = Registry("model.name", {"resnet_v1": ResNetV1, "resnet_v2": ResNetV2, "wide_resnet": WideResNet})


def register(name: str, network: Callable[..., nn.Module]) -> None:
    """Adds a network of your own as a value of `model.name`: a flax module, or a function that returns one.

    It is called with `num_classes` and the other fields of `config.model`; the module with normalised images
    [B, H, W, C] and `train`, for logits [B, Z]. Its variables are `params`, and `batch_stats` if it has any.
    """
    BY_NAME.register(name, network)


# The values of `config.model.dtype`: of the arithmetic. Parameters, statistics, averages and logits are float32.
DTYPES = ("float32", "bfloat16")


def build(name: str, num_classes: int, **fields) -> nn.Module:
    """The network called `name`; `dtype` among the fields is given by its name. Raises ValueError for unknown ones."""
    if name not in BY_NAME:
        raise ValueError(f"model.name must be one of {sorted(BY_NAME)}, not {name!r}")
    if "dtype" in fields:
        if fields["dtype"] not in DTYPES:
            raise ValueError(f"model.dtype must be one of {DTYPES}, not {fields['dtype']!r}")
        fields["dtype"] = jnp.dtype(fields["dtype"])
    return BY_NAME[name](num_classes=num_classes, **fields)


__all__ = [
    "BATCH_AXIS",
    "BY_NAME",
    "DTYPES",
    "ResNetV1",
    "ResNetV2",
    "WideResNet",
    "build",
    "check_network",
    "logits_fn",
    "mean_prediction",
    "member_logits_fn",
    "member_seeds",
    "normalize",
    "register",
    "unit_range",
]
