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


def builder(name: str, data_dir: str):
    """The TFDS builder of `name`; `data_dir=""` means TFDS' own default. Raises UserError for an unknown name."""
    tfds = import_tfds()
    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except tfds.core.registered.DatasetNotFoundError:
        raise UserError(f"data.name is a data set of TensorFlow Datasets, and {name!r} is none") from None


@functools.cache
def _read(name: str, split: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    tfds = import_tfds()
    source = builder(name, data_dir)
    if not source.data_path.exists() or split not in source.info.splits:
        raise UserError(
            f"data.name: {name!r} has no prepared {split!r} split in {source.data_path}; prepare it with "
            f"`python -m arada.data.prepare --config=...` or point run.data_dir (or TFDS_DATA_DIR) at it"
        )
    # One file after the other: the position of an example is its name.
    in_order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    examples = tfds.as_numpy(source.as_dataset(split=split, batch_size=-1, shuffle_files=False, read_config=in_order))
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

    def out_of_distribution(self, name: str) -> Split:
        """The `test` or else `validation` split of another TFDS data set; its labels are -1."""
        splits = builder(name, self.data_dir).info.splits
        images, _ = _read(name, "test" if "test" in splits else "validation", self.data_dir)
        return _named(images, np.full(len(images), -1, np.int32))


def _named(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(images, labels, np.arange(len(labels), dtype=np.int32))
