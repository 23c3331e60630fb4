"""Data sets that are read whole into memory, wherever their images come from."""

import dataclasses
from typing import Protocol

import numpy as np

from arada.data import shifts
from arada.data.sources import tfds
from arada.data.splits import Split, partition
from arada.errors import UserError


class Source(Protocol):
    """Images and labels in an order that never changes: a position in it is an example's id."""

    @property
    def where(self) -> str:
        """Its name in messages."""

    def read(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{"train": (images, labels)}, and "test" where a test part is published. Raises UserError.

        Images are uint8, or float in [0, 1], [N, H, W, C]; labels whole numbers [N].
        """

    def published_position(self, test: Split) -> np.ndarray:
        """The position of each test image in the published test set, see `arada.data.Dataset`."""

    def class_names(self) -> list[str]:
        """The names of the classes in the order of the labels; empty if they have none."""


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Train and validation are random parts of the source's `train`; test is a part of its `test`, or of the rest of
    `train` if there is no `test`.

    The images take N x H x W x C bytes, twice as much while they are read. `elsewhere_dir` is the folder of TFDS'
    out-of-distribution sets, "" for its own default.
    """

    source: Source
    num_train: int
    num_validation: int
    num_test: int
    split_seed: int
    elsewhere_dir: str = ""

    def splits(self) -> dict[str, Split]:
        """The three splits; sizes below the published ones take a random part, by `split_seed`. Raises UserError."""
        parts = self.source.read()
        splits: dict[str, Split] = {}
        cuts = {"train": {"train": self.num_train, "validation": self.num_validation}}
        cuts.setdefault("test" if "test" in parts else "train", {})["test"] = self.num_test
        for part, sizes in cuts.items():
            everything = _checked(f"{self.source.where}: {part}", *parts[part])
            wanted = sum(sizes.values())
            if wanted > len(everything):
                raise UserError(
                    f"{' + '.join(f'data.num_{name}' for name in sizes)} is {wanted}, but {self.source.where} has "
                    f"{len(everything)} {part} images; choose fewer"
                )
            positions = partition(len(everything), tuple(sizes.values()), self.split_seed)
            splits |= {name: everything.take(at) for name, at in zip(sizes, positions, strict=True)}
        return splits

    def shifted(self, test: Split, name: str, severity: int) -> Split:
        """The test split under the simple shift `name` at `severity` 1..5; noise is seeded by both."""
        rng = np.random.default_rng((shifts.number(name), severity))
        images = test.image.astype(np.float32) / 255 if test.image.dtype == np.uint8 else test.image
        images = shifts.in_sensor(shifts.in_scene(images, name, severity, rng), name, severity, rng)
        return dataclasses.replace(test, image=images)

    def published_position(self, test: Split) -> np.ndarray:
        return self.source.published_position(test)

    def class_names(self) -> list[str]:
        return self.source.class_names()

    def why_absent(self, name: str, image_shape: tuple[int, ...]) -> str:
        """Reads no image."""
        return tfds.why_absent(name, self.elsewhere_dir, image_shape)

    def out_of_distribution(self, name: str) -> Split:
        """The `test` or else `validation` split of a TFDS data set; its labels are -1."""
        images = tfds.held_out(name, self.elsewhere_dir)
        return _named(images, np.full(len(images), -1, np.int32))


def _checked(where: str, image: np.ndarray, label: np.ndarray) -> Split:
    """The arrays of a source as a split. Raises UserError for arrays that training cannot use."""
    if label.ndim != 1 or label.dtype.kind not in "iu" or not np.array_equal(label.astype(np.int32), label):
        save = "label.ravel()" if label.ndim == 2 and label.shape[1] == 1 else "label"
        raise UserError(
            f"{where} labels are {label.dtype} {list(label.shape)}; they must be whole numbers [N] below 2^31. Save "
            f"them as {save}.astype('int32')"
        )
    if image.ndim != 4 or (image.dtype.kind != "f" and image.dtype != np.uint8):
        raise UserError(
            f"{where} images are {image.dtype} {list(image.shape)}; they must be uint8 or float [N, H, W, C]"
        )
    if len(image) != len(label):
        raise UserError(f"{where} images are {len(image)}, but its labels {len(label)}; give each image one label")
    if image.dtype.kind == "f":
        if image.size and not (image.min() >= 0 and image.max() <= 1):  # NaN is neither
            raise UserError(
                f"{where} images range from {image.min()} to {image.max()}; floats must be in [0, 1]: divide 0..255 by "
                f"255, or save uint8"
            )
        image = image.astype(np.float32, copy=False)
    return _named(image, label)


def _named(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(images, labels.astype(np.int32, copy=False), np.arange(len(labels), dtype=np.int32))
