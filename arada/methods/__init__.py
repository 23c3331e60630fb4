"""Methods: a loss of a batch, and what it learns from the validation set. One class per method, built by name."""

import ml_collections

from arada.methods.ccat import CCAT
from arada.methods.focal import AdaFocal, AdaFocalState, DualFocal, Focal
from arada.methods.margin import ACLS, MbLS
from arada.methods.method import Network, SoftLabels, Validation
from arada.methods.mixup import Mixup
from arada.registry import Registry

# The values of `config.method.name`; `config.method.<name>` holds the class's own fields.
BY_NAME = Registry(
    "method.name",
    {
        "cross_entropy": SoftLabels,
        "mixup": Mixup,
        "ccat": CCAT,
        "focal": Focal,
        "adafocal": AdaFocal,
        "dual_focal": DualFocal,
        "mbls": MbLS,
        "acls": ACLS,
    },
)


def register(name: str, method: type[SoftLabels]) -> None:
    """Adds a subclass of `SoftLabels` as a value of `method.name`; `config.method.<name>` holds its own fields."""
    BY_NAME.register(name, method)


def build(config: ml_collections.ConfigDict) -> SoftLabels:
    """The method of an experiment's config, with its soft labels."""
    labels, name = config.soft_labels, config.method.name
    return BY_NAME[name](
        num_subsets=labels.num_subsets,
        num_classes=config.data.num_classes,
        epsilon=labels.epsilon,
        alpha=labels.alpha if labels.adaptive else (),
        # Older runs have no such field.
        shrinkage=labels.get("shrinkage", 0.0),
        **config.method.get(name, {}),
    )


__all__ = [
    "ACLS",
    "BY_NAME",
    "CCAT",
    "AdaFocal",
    "AdaFocalState",
    "DualFocal",
    "Focal",
    "MbLS",
    "Mixup",
    "Network",
    "SoftLabels",
    "Validation",
    "build",
    "register",
]
