"""Readers of published corrupted test sets, joined with the test split by an image's position in the published order.

TFDS shuffles what it prepares, so an example id, its position in TFDS' files, is not that position. The data set says
it (`Dataset.published_position`); that the labels agree is checked in every case.
"""

import dataclasses
import functools
import hashlib
import io
import math
from collections.abc import Iterable

import numpy as np
from etils import epath

from arada.data.shifted import imagenet_c
from arada.data.sources import tfds as tfds_data
from arada.data.splits import Split, check_labels
from arada.errors import UserError
from arada.runtime import files

# TFDS' names of two types of CIFAR-10; its ImageNet types have the usual names.
_TFDS_NAMES = {"cifar10": {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}, "imagenet2012": {}}
TFDS_DATA_SETS = tuple(_TFDS_NAMES)


def existing(directory: str) -> epath.Path:
    """The folder that `run.published_dir` names. Raises UserError if it is missing or empty."""
    path = files.absolute(directory)
    if not path.is_dir() or not any(path.iterdir()):
        state = "is empty" if path.is_dir() else "is not a folder"
        raise UserError(
            f"run.published_dir={path} {state}; name the folder of an unpacked CIFAR-10-C, CIFAR-100-C or ImageNet-C, "
            f"or '' for none"
        )
    return path


@dataclasses.dataclass(frozen=True)
class NpyFolder:
    """`<type>.npy`, uint8 [5 N, H, W, C], severity after severity, and `labels.npy` [5 N]: CIFAR-10-C's layout.

    A file is read by the images of one severity, a fifth of it, on any store.
    """

    directory: epath.Path
    image_shape: tuple[int, ...]
    field: str

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The labels of one severity, int64[N]. Raises UserError if they cannot be read or severities differ."""
        path = self.directory / "labels.npy"
        if not path.exists():
            raise self._error(path, "does not exist: images without labels.npy belong to no known data set")
        try:
            labels = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise self._error(path, f"cannot be read ({error})") from None
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) % 5 or not len(labels):
            raise self._error(path, f"holds {labels.dtype} {list(labels.shape)}, not five times N whole numbers")
        by_severity = labels.astype(np.int64).reshape(5, -1)
        if np.any(by_severity != by_severity[0]):
            raise self._error(path, "has different labels at different severities")
        return by_severity[0]

    def start_of(self, name: str) -> int:
        """The offset of the first image in bytes. Raises UserError if the file is not the expected array."""
        path = self.directory / f"{name}.npy"
        with path.open("rb") as file:
            try:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(file)
            except ValueError as error:
                raise self._error(path, f"is not an npy file ({error})") from None
            start = file.tell()
        expected = (5 * len(self.labels), *self.image_shape)
        if dtype != np.uint8 or shape != expected or fortran:
            raise self._error(path, f"holds {dtype} {list(shape)}, not uint8 {list(expected)}")
        size = path.stat().length
        if size != start + math.prod(shape):
            raise self._error(
                path, f"has {size:,} bytes, not the {start + math.prod(shape):,} of its header: it is truncated"
            )
        return start

    def images(self, name: str, severity: int, position: np.ndarray) -> np.ndarray:
        """The images at `position` of 0..N-1 at `severity` 1..5, uint8 [len(position), H, W, C]."""
        start, count = self.start_of(name), len(self.labels)
        size = count * math.prod(self.image_shape)
        with (self.directory / f"{name}.npy").open("rb") as file:
            file.seek(start + (severity - 1) * size)
            block = np.frombuffer(file.read(size), np.uint8)
        return block.reshape(count, *self.image_shape)[position]

    def _error(self, path: epath.Path, what: str) -> UserError:
        return UserError(f"{self.field}: {path} {what}; unpack it again, or name another folder")


@dataclasses.dataclass(frozen=True)
class Published:
    """The authors' npy files of CIFAR-10-C or CIFAR-100-C."""

    test: Split
    position: np.ndarray
    npy: NpyFolder
    num_classes: int

    def absent(self, names: Iterable[str], severities: Iterable[int]) -> dict[str, str]:
        labels, directory = self.npy.labels, self.npy.directory
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise UserError(
                f"run.published_dir: labels of {directory} range from {labels.min()} to {labels.max()}, but "
                f"data.num_classes is {self.num_classes}; it is a folder of another data set"
            )
        _check_join(f"run.published_dir: {directory}", labels, self.position, self.test)
        there = {name: (directory / f"{name}.npy").exists() for name in names}
        for name in there:
            if there[name]:
                self.npy.start_of(name)
        return {name: f"{directory} has no {name}.npy" for name in there if not there[name]}

    def shifted(self, name: str, severity: int) -> Split:
        images = self.npy.images(name, severity, self.position)
        return Split(images, self.test.label, self.test.example_id)  # type: ignore[arg-type]


def _check_join(where: str, labels: np.ndarray, position: np.ndarray, test: Split) -> None:
    """Raises UserError unless `labels`, in the published order, equal the test labels at `position`."""
    if position.max() >= len(labels):
        raise UserError(
            f"{where} has {len(labels)} images per severity, but the test split has one at position "
            f"{position.max()}; it belongs to another data set"
        )
    check_labels(where, labels[position], test)


def hashed_order(keys: Iterable[str], split: str) -> list[str]:
    """The keys of a TFDS builder's examples in the order of its files: by their MD5, salted.

    `cifar10_corrupted` stores nothing else of the key, a number.
    """
    return sorted(keys, key=lambda key: hashlib.md5(f"{split}{key}".encode()).digest())


@dataclasses.dataclass(frozen=True)
class Tfds:
    """`cifar10_corrupted` or `imagenet2012_corrupted` of TensorFlow Datasets."""

    test: Split
    position: np.ndarray
    name: str
    data_dir: str
    crop: bool

    def absent(self, names: Iterable[str], severities: Iterable[int]) -> dict[str, str]:
        names, severities, reasons = tuple(names), tuple(severities), {}
        for name in names:
            missing = [at for at in severities if not tfds_data.is_prepared(*self._builder(name, at))]
            if missing:
                which = f"severity {', '.join(map(str, missing))} of {self.name}_corrupted is not prepared; "
                reasons[name] = which + tfds_data.HOW_TO_PREPARE
        there = [name for name in names if name not in reasons]
        if there and severities and self.name == "cifar10":
            # One look at the labels takes a second; ImageNet's would take minutes.
            self.shifted(there[0], severities[0])
        return reasons

    def shifted(self, name: str, severity: int) -> Split:
        builder, split = self._builder(name, severity)
        where = f"{builder.info.full_name} in {builder.data_path}"
        if "file_name" in builder.info.features:
            return self._by_file_name(builder, split, where)
        examples = tfds_data.in_order(builder, split)
        order = hashed_order(map(str, range(len(examples["label"]))), split)
        row = np.argsort(np.array(order, int))
        _check_join(f"run.data_dir: {where}", examples["label"][row], self.position, self.test)
        return Split(examples["image"][row[self.position]], self.test.label, self.test.example_id)

    def _by_file_name(self, builder, split: str, where: str) -> Split:
        # 25,000 images of 224 pixels are 4 GB, and half a GB as they are stored.
        wanted, found = set(self.position.tolist()), {}
        for example in tfds_data.one_by_one(builder, split):
            at = imagenet_c.position_of(example["file_name"].decode())
            if at in wanted:
                found[at] = example
        if missing := len(wanted) - len(found):
            raise UserError(f"run.data_dir: {where} lacks {missing} of {len(wanted)} test images; prepare it again")
        chosen = [found[int(at)] for at in self.position]
        check_labels(f"run.data_dir: {where}", np.array([example["label"] for example in chosen]), self.test)
        images = imagenet_c.JpegImages([example["image"] for example in chosen], self.crop)
        return Split(images, self.test.label, self.test.example_id)  # type: ignore[arg-type]

    def _builder(self, name: str, severity: int):
        called = _TFDS_NAMES[self.name].get(name, name)
        builder = tfds_data.builder(f"{self.name}_corrupted/{called}_{severity}", self.data_dir)
        return builder, "validation" if self.name == "imagenet2012" else "test"


def tfds_names(name: str, types: Iterable[str], severities: Iterable[int]) -> list[str]:
    """The TFDS data sets that hold `types` at `severities` for the data set `name`."""
    severities = tuple(severities)
    return [f"{name}_corrupted/{_TFDS_NAMES[name].get(kind, kind)}_{at}" for kind in types for at in severities]
