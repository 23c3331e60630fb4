"""Small image data sets of TensorFlow Datasets, read once into memory, in the order of their files."""

import dataclasses
import functools

import numpy as np

from arada.data import shifts
from arada.data.splits import Split, partition
from arada.errors import UserError


def import_tfds():
    """tensorflow_datasets, imported late (seconds) and kept away from accelerators, which belong to JAX."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")
    return tfds


HOW_TO_PREPARE = (
    "prepare it with `python -m arada.data.prepare --config=... --evaluation`, or point run.data_dir (or "
    "TFDS_DATA_DIR) at it"
)


def builder(name: str, data_dir: str, field: str = "data.name"):
    """The TFDS builder of `name`; `data_dir=""` means TFDS' own default. Raises UserError, naming `field`, for an
    unknown name."""
    tfds = import_tfds()
    try:
        return tfds.builder(name, data_dir=data_dir or None)
    # A configuration or a version that there is not, and a name that cannot be one, are ValueErrors or an
    # AssertionError.
    except (tfds.core.registered.DatasetNotFoundError, ValueError, AssertionError):
        raise UserError(f"{field} is a data set of TensorFlow Datasets, and {name!r} is none") from None


def is_prepared(source, split: str) -> bool:
    """Whether the files of a builder's split are there."""
    return source.data_path.exists() and split in source.info.splits


def in_order(source, split: str, **options) -> dict[str, np.ndarray]:
    """All examples of a prepared split in the order of the files: the position of an example is its name."""
    return import_tfds().as_numpy(_dataset(source, split, batch_size=-1, **options))


def one_by_one(source, split: str):
    """As `in_order`, one example at a time, images as the bytes that are stored."""
    tfds = import_tfds()
    return tfds.as_numpy(_dataset(source, split, decoders={"image": tfds.decode.SkipDecoding()}))


def _dataset(source, split: str, **options):
    # One file after the other.
    config = import_tfds().ReadConfig(interleave_cycle_length=1, try_autocache=False)
    return source.as_dataset(split=split, shuffle_files=False, read_config=config, **options)


def _prepared(name: str, split: str, data_dir: str):
    source = builder(name, data_dir)
    if not is_prepared(source, split):
        raise UserError(
            f"data.name: {name!r} has no prepared {split!r} split in {source.data_path}; prepare it with "
            f"`python -m arada.data.prepare --config=...` or point run.data_dir (or TFDS_DATA_DIR) at it"
        )
    return source


@functools.cache
def _read(name: str, split: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    examples = in_order(_prepared(name, split, data_dir), split)
    return examples["image"], examples["label"].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class SmallTfds:
    """Train and validation are random parts of the published `train`, test is the published `test`."""

    name: str
    data_dir: str
    num_train: int
    num_validation: int
    num_test: int
    split_seed: int

    def splits(self) -> dict[str, Split]:
        """The three splits, uint8; sizes below the published ones take a random part, by `split_seed`."""
        train_image, train_label = _read(self.name, "train", self.data_dir)
        wanted = self.num_train + self.num_validation
        if wanted > len(train_label):
            raise UserError(
                f"data.num_train + data.num_validation is {wanted}, but {self.name} has {len(train_label)} "
                f"training images; choose fewer"
            )
        test_image, test_label = _read(self.name, "test", self.data_dir)
        if self.num_test > len(test_label):
            raise UserError(f"data.num_test is {self.num_test}, but {self.name} has {len(test_label)} test images")
        train, test = _named(train_image, train_label), _named(test_image, test_label)
        at_train, at_validation = partition(len(train), (self.num_train, self.num_validation), self.split_seed)
        (at_test,) = partition(len(test), (self.num_test,), self.split_seed)
        return {"train": train.take(at_train), "validation": train.take(at_validation), "test": test.take(at_test)}

    def shifted(self, test: Split, name: str, severity: int) -> Split:
        """The test split under the generated shift `name` at `severity` 1..5; noise is seeded by both."""
        rng = np.random.default_rng((shifts.number(name), severity))
        images = test.image.astype(np.float32) / 255
        images = shifts.in_sensor(shifts.in_scene(images, name, severity, rng), name, severity, rng)
        return dataclasses.replace(test, image=images)

    def published_position(self, test: Split) -> np.ndarray:
        """Where each image of the test split stood in the published test set, which TFDS shuffled: int64[N].

        TFDS keeps it as the example's "id", such as test_04171. Raises UserError for data without one.
        """
        source = _prepared(self.name, "test", self.data_dir)
        if "id" not in source.info.features:
            raise UserError(
                f"evaluation.shift_source: nothing says where an image of {self.name!r} stood in a published test "
                f"set; take 'generated' or 'simple'"
            )
        ids = in_order(source, "test", decoders={"image": import_tfds().decode.SkipDecoding()})["id"]
        return np.array([int(name.decode().rpartition("_")[2]) for name in ids])[test.example_id]

    def out_of_distribution(self, name: str) -> Split:
        """The `test` or else `validation` split of another TFDS data set; its labels are -1."""
        images, _ = _read(name, _held_out(builder(name, self.data_dir)) or "test", self.data_dir)
        return _named(images, np.full(len(images), -1, np.int32))

    def why_absent(self, name: str, image_shape: tuple[int, ...]) -> str:
        """As of `Dataset`; reads no image."""
        field = "evaluation.out_of_distribution"
        source = builder(name, self.data_dir, field)
        features = source.info.features
        shape = features["image"].shape if "image" in features else None
        if shape != tuple(image_shape):
            raise UserError(
                f"{field} names {name!r}, whose images are {shape or 'none'}, not {tuple(image_shape)} as "
                f"data.image_shape; choose another"
            )
        if not source.data_path.exists():
            return f"it is not prepared in {source.data_path}; {HOW_TO_PREPARE}"
        if not _held_out(source):
            raise UserError(f"{field} names {name!r}, which has no test or validation split; choose another")
        return ""


def _held_out(source) -> str | None:
    return next((split for split in ("test", "validation") if split in source.info.splits), None)


def _named(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(images, labels, np.arange(len(labels), dtype=np.int32))
