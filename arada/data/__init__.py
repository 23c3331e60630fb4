"""Data sets: splits of named examples, their shifted versions, and data from elsewhere."""

from typing import Protocol

import ml_collections
import numpy as np

from arada.data import shifts
from arada.data.digits import Digits
from arada.data.splits import Batch, Split, empty_moments, moments
from arada.data.tfds import SmallTfds
from arada.errors import UserError


class Dataset(Protocol):
    """What an experiment needs of its data."""

    def splits(self) -> dict[str, Split]:
        """The splits "train", "validation" and "test"."""

    def shifted(self, test: Split, name: str, severity: int) -> Split:
        """The test split under one of the simple shifts of `arada.data.shifts`."""

    def published_position(self, test: Split) -> np.ndarray:
        """Where each image of the test split stands in the published order of the test set, from 0: int64[N].

        Shifted images from elsewhere are joined by it. Raises UserError for data without a published order.
        """

    def out_of_distribution(self, name: str) -> Split:
        """Examples of none of the classes."""

    def why_absent(self, name: str, image_shape: tuple[int, ...]) -> str:
        """Why the out-of-distribution set `name` cannot be read, and the way out; "" if it can.

        Raises UserError for a name that does not exist, and for images of another shape.
        """


def build(data: ml_collections.ConfigDict, data_dir: str) -> Dataset:
    """The data set that `config.data` describes. Nothing is read yet."""
    fields = {key: value for key, value in data.items() if key not in ("source", "num_classes", "image_shape")}
    if data.source == "digits":
        return Digits(**fields)
    if data.source == "tfds":
        return SmallTfds(data_dir=data_dir, **fields)
    raise UserError(f"data.source is 'digits' or 'tfds', not {data.source!r}")


def load_splits(dataset: Dataset, data: ml_collections.ConfigDict) -> dict[str, Split]:
    """The three splits, with images of the shape and labels in the range that `config.data` says. Raises UserError."""
    splits, num_classes = dataset.splits(), data.num_classes
    for name, split in splits.items():
        if not len(split):
            raise UserError(f"data.num_{name} leaves the {name} split without images; it must be above 0")
        if split.image.shape[1:] != tuple(data.image_shape):
            raise UserError(f"data.image_shape is {data.image_shape}, but {name} images are {split.image.shape[1:]}")
        low, high = int(split.label.min()), int(split.label.max())
        if low < 0 or high >= num_classes:
            raise UserError(
                f"data.num_classes is {num_classes}, but labels of the {name} split reach from {low} to {high}; "
                f"labels are 0..{num_classes - 1}"
            )
    return splits


__all__ = ["Batch", "Dataset", "Split", "build", "empty_moments", "load_splits", "moments", "shifts"]
