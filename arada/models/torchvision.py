"""ResNets of torchvision and timm: the names of their weights, and their places in `ResNetV1`."""

from collections.abc import Mapping

import numpy as np

from arada.models.resnet_v1 import BLOCKS


def layers(depth: int) -> tuple[list[str], list[str]]:
    """The names of the convolutions and of the batch norms of a ResNet, in the order of `Conv_<i>`, `BatchNorm_<i>`."""
    convolutions, norms = ["conv1"], ["bn1"]
    for group, blocks in enumerate(BLOCKS[depth], start=1):
        for block in range(blocks):
            prefix = f"layer{group}.{block}"
            convolutions += [f"{prefix}.conv{i}" for i in (1, 2, 3)]
            norms += [f"{prefix}.bn{i}" for i in (1, 2, 3)]
            if block == 0:
                convolutions.append(f"{prefix}.downsample.0")
                norms.append(f"{prefix}.downsample.1")
    return convolutions, norms


def depth_of(names: set[str]) -> int | None:
    """The depth of the ResNet with bottlenecks that has weights of these names; None if it is not one of ours."""
    blocks = tuple(
        len(
            {
                name.split(".")[1]
                for name in names
                if name.startswith(f"layer{group}.") and name.endswith(".conv3.weight")
            }
        )
        for group in (1, 2, 3, 4)
    )
    return next((depth for depth, of in BLOCKS.items() if of == blocks), None)


def variables(tensors: Mapping[str, np.ndarray], depth: int) -> dict[str, np.ndarray]:
    """By path, such as "params/Conv_0/kernel", the arrays of `ResNetV1` in their layout, float32.

    Raises ValueError for names that are missing or unknown.
    """
    convolutions, norms = layers(depth)
    places = {f"{name}.weight": f"params/Conv_{i}/kernel" for i, name in enumerate(convolutions)}
    for i, name in enumerate(norms):
        for theirs, ours in (("weight", "scale"), ("bias", "bias")):
            places[f"{name}.{theirs}"] = f"params/BatchNorm_{i}/{ours}"
        for theirs, ours in (("running_mean", "mean"), ("running_var", "var")):
            places[f"{name}.{theirs}"] = f"batch_stats/BatchNorm_{i}/{ours}"
    places |= {f"fc.{theirs}": f"params/Dense_0/{ours}" for theirs, ours in (("weight", "kernel"), ("bias", "bias"))}
    # The number of batches that the statistics have seen is not needed.
    given = {name for name in tensors if not name.endswith(".num_batches_tracked")}
    check_names(set(places), given)
    return {ours: _turned(np.asarray(tensors[theirs], np.float32), ours) for theirs, ours in places.items()}


def check_names(needed: set[str], given: set[str]) -> None:
    """Raises ValueError that counts the missing and the unknown names, and lists five of each."""
    faults = [
        f"{len(names)} of {of} names {what}: {', '.join(sorted(names)[:5])}{' ...' if len(names) > 5 else ''}"
        for names, of, what in (
            (needed - given, len(needed), "are missing"),
            (given - needed, len(given), "do not exist in this network"),
        )
        if names
    ]
    if faults:
        raise ValueError("; ".join(faults))


def _turned(value: np.ndarray, place: str) -> np.ndarray:
    """From PyTorch's order of axes to flax's."""
    if not place.endswith("kernel"):
        return value
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
