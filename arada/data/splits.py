"""A split: named examples, shuffled for training or in order for everything else.

An example's id is its position in the canonical, unshuffled data set; it stays with the example wherever it goes.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from arada.errors import UserError

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Share:
    """One host's part of every batch: part `index` of `count` equal parts."""

    index: int = 0
    count: int = 1


ALL = Share()


class Examples(Protocol):
    """The interface of a split, in memory (`Split`) or streamed from disk (`StreamedSplit`)."""

    @property
    def example_id(self) -> np.ndarray:
        """int32[N], ascending."""

    @property
    def label(self) -> np.ndarray:
        """int32[N]; a streamed split reads all its files for it."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C)."""

    @property
    def label_range(self) -> tuple[int, int]:
        """The lowest and the highest label, found or allowed."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """A digest of the split's content: equal for equal examples."""

    def take(self, positions: np.ndarray) -> "Examples":
        """The examples at `positions`, in the order of their ids."""

    def epoch(self, batch_size: int, *, seed: int, epoch: int, skip: int = 0, share: Share = ALL) -> Iterator[Batch]:
        """The shuffled training batches of one epoch, see `Split.epoch`."""

    def in_order(self, batch_size: int, *, batches: Sequence[int] | None = None) -> Iterator[Batch]:
        """Every example once, by ascending id, see `Split.in_order`."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples in memory: `image` uint8 or float32 [N, H, W, C], `label` int32[N], `example_id` int32[N], ascending."""

    image: np.ndarray
    label: np.ndarray
    example_id: np.ndarray

    def __post_init__(self):
        if not len(self.image) == len(self.label) == len(self.example_id):
            raise ValueError("images, labels and ids differ in number")
        if not np.all(np.diff(self.example_id) > 0):
            raise ValueError("example ids must be ascending and unique")

    def __len__(self) -> int:
        return len(self.label)

    def fingerprint(self) -> str:
        """SHA-256 of images, labels and ids: equal for equal examples, wherever they are stored."""
        digest = hashlib.sha256()
        for array in (self.image, self.label, self.example_id):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array))  # type: ignore[arg-type]
        return digest.hexdigest()

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C)."""
        return self.image.shape[1:]

    @property
    def label_range(self) -> tuple[int, int]:
        """The lowest and the highest label."""
        return int(self.label.min()), int(self.label.max())

    def take(self, positions: np.ndarray) -> "Split":
        """The examples at `positions`, in the order of their ids."""
        positions = np.sort(positions)
        return Split(self.image[positions], self.label[positions], self.example_id[positions])

    def epoch(self, batch_size: int, *, seed: int, epoch: int, skip: int = 0, share: Share = ALL) -> Iterator[Batch]:
        """The batches of one epoch, in an order that is a function of (seed, epoch) alone, from batch `skip` on.

        The last partial batch is dropped. Keys: image, label, example_id. With a `share`, that part of each batch.
        """
        order = np.random.default_rng((seed, epoch)).permutation(len(self))
        for start in range(skip * batch_size, len(self) - batch_size + 1, batch_size):
            at = np.split(order[start : start + batch_size], share.count)[share.index]
            yield {"image": self.image[at], "label": self.label[at], "example_id": self.example_id[at]}

    def in_order(self, batch_size: int, *, batches: Sequence[int] | None = None) -> Iterator[Batch]:
        """Every example once, by ascending id, or only the batches with these numbers; the last batch is padded.

        Keys: image, label, example_id, and mask, which is False on padding (copies of the last example).
        """
        for number in range(-(-len(self) // batch_size)) if batches is None else batches:
            at = np.arange(number * batch_size, (number + 1) * batch_size)
            mask, at = at < len(self), np.minimum(at, len(self) - 1)
            yield {
                "image": self.image[at],
                "label": self.label[at],
                "example_id": self.example_id[at],
                "mask": mask,
            }


def check_labels(where: str, labels: np.ndarray, split: Split) -> None:
    """Raises UserError unless `labels` int[N], read elsewhere, equal the labels of `split`."""
    wrong = int(np.sum(labels != split.label))
    if wrong:
        raise UserError(
            f"{where}: {wrong} of {len(split)} labels differ from the test labels; it belongs to another data set"
        )


def partition(count: int, sizes: tuple[int, ...], seed: int) -> tuple[np.ndarray, ...]:
    """Disjoint random positions out of `count`, one array for each of `sizes`, each ascending.

    Raises ValueError if `count` is too small.
    """
    if min(sizes) < 0 or sum(sizes) > count:
        raise ValueError(f"parts of sizes {sizes} cannot be cut out of {count} examples")
    order = np.random.default_rng(seed).permutation(count)
    return tuple(np.sort(part) for part in np.split(order, np.cumsum(sizes))[: len(sizes)])


# The values of `config.training.normalization`; the values in the second row read all training images.
NORMALIZATIONS = ("mean_image", "standardize", "cifar", "imagenet", "unit")
FROM_IMAGES = ("mean_image", "standardize")


def moments(split: Split, kind: str) -> dict[str, np.ndarray]:
    """The constants that normalise images: {"mean", "scale"} float32, of a training split.

    "mean_image": the mean of each pixel, scale 1. "standardize": mean and standard deviation of each channel. "cifar":
    the constants of edward2, for CIFAR-10 and CIFAR-100 alike. "imagenet": torchvision's constants. "unit": images stay
    in [0, 1].
    """
    if kind == "unit":
        return {"mean": np.zeros(1, np.float32), "scale": np.ones(1, np.float32)}
    if kind == "cifar":
        return {"mean": _float32(0.4914, 0.4822, 0.4465), "scale": _float32(0.2023, 0.1994, 0.2010)}
    if kind == "imagenet":
        return {"mean": _float32(0.485, 0.456, 0.406), "scale": _float32(0.229, 0.224, 0.225)}
    # In blocks: a float64 copy of a data set is eight times the size of its bytes.
    total = squares = np.zeros(split.image_shape)
    for start in range(0, len(split), 4096):
        block = split.image[start : start + 4096].astype(np.float64)
        block = block / 255 if split.image.dtype == np.uint8 else block
        total, squares = total + block.sum(axis=0), squares + np.square(block).sum(axis=0)
    mean = total / len(split)
    if kind == "mean_image":
        return {"mean": mean.astype(np.float32), "scale": np.ones(1, np.float32)}
    channel_mean = mean.mean(axis=(0, 1))
    # A channel without variance is only shifted.
    variance = (squares / len(split)).mean(axis=(0, 1)) - np.square(channel_mean)
    scale = np.where(variance > 1e-12, np.sqrt(np.maximum(variance, 0)), 1)
    return {"mean": channel_mean.astype(np.float32), "scale": scale.astype(np.float32)}


def _float32(*values: float) -> np.ndarray:
    return np.asarray(values, np.float32)


def empty_moments(kind: str, image_shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Zeros in the shapes that `moments` returns."""
    by_channel = image_shape[-1:], image_shape[-1:]
    shapes = {
        "mean_image": (image_shape, (1,)),
        "standardize": by_channel,
        "cifar": by_channel,
        "imagenet": by_channel,
        "unit": ((1,), (1,)),
    }
    return dict(zip(("mean", "scale"), (np.zeros(shape, np.float32) for shape in shapes[kind]), strict=True))
