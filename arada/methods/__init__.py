"""Methods: a loss of a batch, and what it learns from the validation set. One class per method, built by name."""

import ml_collections

from arada.methods.ccat import CCAT
from arada.methods.focal import AdaFocal, AdaFocalState, DualFocal, Focal
from arada.methods.margin import ACLS, MbLS
from arada.methods.method import Method, Network, Validation
from arada.methods.mixup import Mixup
from arada.methods.soft_labels import SoftLabels
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


def register(name: str, method: type[Method]) -> None:
    """Adds a subclass of `Method` as a value of `method.name`; `config.method.<name>` holds its own fields.

    Raises ValueError for a name that is built in, and for what is not such a class.
    """
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise ValueError(f"method.name {name!r}: {method!r} is not a subclass of arada.methods.Method")
    BY_NAME.register(name, method)


def build(config: ml_collections.ConfigDict) -> Method:
    """The method of an experiment's config, with its soft labels if it has any."""
    labels, name = config.soft_labels, config.method.name
    fields = {"num_subsets": labels.num_subsets, "num_classes": config.data.num_classes}
    if has_soft_labels(name):
        # Older runs have no field `shrinkage`.
        fields |= {"epsilon": labels.epsilon, "shrinkage": labels.get("shrinkage", 0.0)}
        fields["alpha"] = labels.alpha if labels.adaptive else ()
    return BY_NAME[name](**fields, **config.method.get(name, {}))


def has_soft_labels(name: str) -> bool:
    """Whether the method trains on the labels of `config.soft_labels`; all that are built in do."""
    return issubclass(BY_NAME[name], SoftLabels)


__all__ = [
    "ACLS",
    "BY_NAME",
    "CCAT",
    "AdaFocal",
    "AdaFocalState",
    "DualFocal",
    "Focal",
    "MbLS",
    "Method",
    "Mixup",
    "Network",
    "SoftLabels",
    "Validation",
    "build",
    "has_soft_labels",
    "register",
]
