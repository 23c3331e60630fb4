"""Data sets: splits of named examples, shifted versions, and out-of-distribution images."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import ml_collections
import numpy as np

from arada.data import shifts
from arada.data.sources.archives import CifarArchive
from arada.data.sources.digits import Digits
from arada.data.sources.folders import Folder
from arada.data.sources.imagenet import ImageNet
from arada.data.sources.in_memory import InMemory
from arada.data.sources.npz import Npz
from arada.data.sources.tfds import Tfds
from arada.data.splits import Batch, Examples, Split, empty_moments, moments
from arada.errors import UserError
from arada.registry import Registry

logger = logging.getLogger(__name__)


class Dataset(Protocol):
    """The interface of a data set."""

    def splits(self) -> Mapping[str, Examples]:
        """The splits "train", "validation" and "test"."""

    def shifted(self, test: Any, name: str, severity: int) -> Examples:
        """The test split under one of the simple shifts of `arada.data.shifts`."""

    def published_position(self, test: Any) -> np.ndarray:
        """The position of each test image in the published order of the test set, from 0: int64[N].

        Published shifted images are joined by it. Raises UserError for data without a published order.
        """

    def class_names(self) -> list[str]:
        """The names of the classes in the order of the labels; empty if they have none."""

    def out_of_distribution(self, name: str) -> Examples:
        """Out-of-distribution images, which belong to none of the classes."""

    def why_absent(self, name: str, image_shape: tuple[int, ...]) -> str:
        """Why the out-of-distribution set `name` cannot be read, and the way out; "" if it can.

        Raises UserError for a name that does not exist, and for images of another shape.
        """


# The values of `config.data.source` besides the built-in ones.
REGISTERED = Registry("data.source", {}, ("digits", "tfds", "imagenet", "cifar_archive", "folder", "npz"))


def register(source: str, dataset: Callable[..., Dataset]) -> None:
    """Adds a data set of your own as a value of `data.source`.

    It is called with `data_dir` and the fields of `config.data` except `source`, and returns a `Dataset`; `InMemory`
    makes one of a `Source` of images and labels.
    """
    REGISTERED.register(source, dataset)


def build(data: ml_collections.ConfigDict, data_dir: str) -> Dataset:
    """The data set that `config.data` describes, in `data_dir`. Nothing is read yet. Raises UserError."""
    if data.source in REGISTERED:
        fields = {key: value for key, value in data.items() if key != "source"}
        try:
            return REGISTERED[data.source](**fields, data_dir=data_dir)
        except TypeError as error:
            raise UserError(f"data.source {data.source!r} does not accept the fields of config.data: {error}") from None
    fields = {key: value for key, value in data.items() if key not in ("source", "num_classes", "image_shape")}
    in_memory = {"num_train", "num_validation", "num_test", "split_seed"}
    fields_of = {
        "digits": {field.name for field in dataclasses.fields(Digits)},
        "tfds": in_memory | {"name"},
        "imagenet": in_memory | {"name", "shuffle_buffer", "streams", "resize", "resize_side"},
        "cifar_archive": in_memory | {"name"},
        "folder": in_memory,
        "npz": in_memory,
    }
    if data.source not in fields_of:
        raise UserError(f"data.source must be one of {', '.join([*fields_of, *REGISTERED])}, not {data.source!r}")
    if data.source == "npz":
        fields.pop("name", None)  # of the data set that was exported: the file holds all that matters
    if differing := sorted(fields_of[data.source] ^ fields.keys()):
        raise UserError(
            f"data.source={data.source!r} needs exactly the fields {', '.join(sorted(fields_of[data.source]))}; "
            f"{'remove' if differing[0] in fields else 'add'} data.{differing[0]} in the config file"
        )
    if data.source == "digits":
        return Digits(**fields)
    name, shape = fields.pop("name", ""), tuple(data.image_shape)
    if data.source == "tfds":
        return InMemory(Tfds(name, data_dir), **fields, elsewhere_dir=data_dir)
    if data.source == "imagenet":
        return ImageNet(name=name, data_dir=data_dir, image_size=shape[0], **fields)
    if not data_dir:
        raise UserError(
            f"run.data_dir is empty; data.source={data.source!r} needs it, so set it to the place of the data"
        )
    if data.source == "cifar_archive":
        return InMemory(CifarArchive(name, data_dir), **fields)
    if data.source == "folder":
        return InMemory(Folder(data_dir, shape, data.num_classes), **fields)
    return InMemory(Npz(data_dir), **fields)


def load_splits(dataset: Dataset, data: ml_collections.ConfigDict) -> Mapping[str, Examples]:
    """The three splits, with images of the shape and labels in the range that `config.data` says. Raises UserError."""
    splits, num_classes = dataset.splits(), data.num_classes
    for name, split in splits.items():
        if not len(split):
            raise UserError(f"data.num_{name} leaves the {name} split without images; it must be above 0")
        if split.image_shape != tuple(data.image_shape):
            raise UserError(
                f"data.image_shape is {data.image_shape}, but {name} images are {split.image_shape}; "
                f"set it to their shape"
            )
        low, high = split.label_range
        if low < 0 or high >= num_classes:
            raise UserError(
                f"data.num_classes is {num_classes}, but labels of the {name} split range from {low} to {high}; "
                f"labels are 0..{num_classes - 1}"
            )
    train = splits["train"]
    if isinstance(train, Split) and (unused := sorted(set(range(num_classes)) - set(train.label.tolist()))):
        some = ", ".join(map(str, unused[:5])) + (", ..." if len(unused) > 5 else "")
        logger.warning("data.num_classes is %d, but no training image has the label %s", num_classes, some)
    return splits


__all__ = [
    "Batch",
    "Dataset",
    "Examples",
    "ImageNet",
    "InMemory",
    "Split",
    "build",
    "empty_moments",
    "load_splits",
    "moments",
    "register",
    "shifts",
]
