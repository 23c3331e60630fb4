"""Small image data sets of TensorFlow Datasets, read once into memory, in the order of their files."""

import dataclasses
import functools
import importlib.util
import logging
import re

import numpy as np

from arada.data.splits import Split
from arada.errors import UserError
from arada.runtime import files

# The TFDS names of splits that nobody trains on, by preference.
HELD_OUT = ("test", "validation")
_BATCH = 1024


def why_unreadable() -> str:
    """Why the files of TensorFlow Datasets cannot be read here, and the way out; "" if they can."""
    absent = [name for name in ("tensorflow", "tensorflow_datasets") if importlib.util.find_spec(name) is None]
    if not absent:
        return ""
    return (
        f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed, which TensorFlow "
        f"Datasets needs; pip install 'arada[tfds]', or export the data set where they are: "
        f"python -m arada.prepare --config=... --export=FILE.npz"
    )


@functools.cache
def import_tensorflow():
    """TensorFlow, imported late (seconds) and kept away from accelerators, which belong to JAX. Raises UserError."""
    if why := why_unreadable():
        raise UserError(f"data.source: {why}")
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    # From Python 3.13 on AutoGraph cannot read our functions, which need no conversion, and says so for each.
    tf.get_logger().addFilter(_not_of_autograph)
    return tf


def _not_of_autograph(record: logging.LogRecord) -> bool:
    return "AutoGraph could not transform" not in record.getMessage()


def import_tfds():
    """tensorflow_datasets, with TensorFlow imported by `import_tensorflow`."""
    import_tensorflow()
    import tensorflow_datasets as tfds

    return tfds


HOW_TO_PREPARE = "prepare it with `python -m arada.prepare --config=...` or point run.data_dir (or TFDS_DATA_DIR) at it"


def builder(name: str, data_dir: str, field: str = "data.name"):
    """The TFDS builder of `name`; `data_dir=""` means TFDS' own default. Raises UserError, naming `field`, for an
    unknown name, configuration or version, and for files of another data set."""
    if data_dir:
        data_dir = files.absolute(data_dir)
        files.check_name(data_dir, "run.data_dir")
    tfds = import_tfds()
    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except tfds.core.registered.DatasetNotFoundError:
        raise UserError(f"{field} must be a data set of TensorFlow Datasets, not {name!r}") from None
    # An AssertionError for a version, a ValueError for a configuration, protobuf's own for a broken dataset_info.json.
    except Exception as error:
        reason = re.sub(
            r'^Failed to construct dataset .*?}": ', "", (str(error) or type(error).__name__).splitlines()[0]
        )
        raise UserError(
            f"{field}={name!r} cannot be opened in {data_dir or 'the default folder of TFDS'} ({reason}); name "
            f"another, or delete what is there and prepare it again"
        ) from None


def is_prepared(source, split: str) -> bool:
    """Whether the files of a builder's split exist."""
    return source.data_path.exists() and split in source.info.splits


def in_order(source, split: str, **options) -> dict[str, np.ndarray]:
    """All examples of a prepared split in the order of the files: the position of an example is its name."""
    return import_tfds().as_numpy(_dataset(source, split, batch_size=-1, **options))


def one_by_one(source, split: str):
    """Like `in_order`, but one example at a time, with images as the stored bytes."""
    tfds = import_tfds()
    return tfds.as_numpy(_dataset(source, split, decoders={"image": tfds.decode.SkipDecoding()}))


def _dataset(source, split: str, **options):
    # One file after the other.
    config = import_tfds().ReadConfig(interleave_cycle_length=1, try_autocache=False)
    return source.as_dataset(split=split, shuffle_files=False, read_config=config, **options)


def prepared(name: str, data_dir: str):
    """The builder of `name`. Raises UserError unless its data set is prepared in `data_dir`."""
    source = builder(name, data_dir)
    if source.data_path.exists():
        if not source.info.splits:
            raise _broken(source, "there is no dataset_info.json")
        return source
    siblings = source.data_path.parent.iterdir() if source.data_path.parent.exists() else ()
    versions = {path.name for path in siblings if re.fullmatch(r"\d+\.\d+\.\d+", path.name)}
    others = sorted(versions - {source.data_path.name})
    instead = f" (there is {', '.join(others)}: data.name={name.partition(':')[0]}:{others[-1]})" if others else ""
    raise UserError(f"data.name: {name!r} is not prepared in {source.data_path}{instead}; {HOW_TO_PREPARE}")


def _keys(info) -> tuple[str, str]:
    """The names of a data set's features for image and label."""
    keys = info.supervised_keys
    return keys if keys and len(keys) == 2 and all(isinstance(key, str) for key in keys) else ("image", "label")


@functools.cache
def _read(name: str, split: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    tf, tfds, source = import_tensorflow(), import_tfds(), prepared(name, data_dir)
    image, label = _keys(source.info)
    if missing := {image, label} - set(source.info.features):
        raise UserError(
            f"data.name: {name!r} has no {' and '.join(sorted(missing))}; choose one that classifies images"
        )
    # Not TFDS' own batches, which pad images of many sizes with black.
    batches = _dataset(source, split).map(lambda example: (example[image], example[label])).batch(_BATCH)
    try:
        read = list(tfds.as_numpy(batches))
        one_shape = len({images.shape[1:] for images, _ in read}) <= 1
    except tf.errors.OpError as error:
        if not (isinstance(error, tf.errors.InvalidArgumentError) and "batch" in error.message):
            raise _broken(source, error.message) from None
        one_shape = False
    if not one_shape:
        raise UserError(
            f"data.name: images of {name!r} differ in shape, and TFDS data are not resized; export them to a "
            f"folder of images by class, which data.source='folder' resizes"
        )
    count, expected = sum(len(labels) for _, labels in read), source.info.splits[split].num_examples
    if count != expected or not count:
        raise _broken(source, f"{count} of {expected} {split} images are there")
    images, labels = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
    return images, labels


def _broken(source, reason: str) -> UserError:
    reason = re.sub(r"^\{\{.*?\}\} | \[Op:.*", "", reason.splitlines()[0])
    return UserError(
        f"data.name: the files in {source.data_path} are broken or incomplete ({reason}); delete that "
        f"folder and prepare it again with `python -m arada.prepare --config=...`"
    )


def label_names(name: str, data_dir: str) -> list[str]:
    """The names of the classes of a prepared data set, as `Dataset.class_names`."""
    info = prepared(name, data_dir).info
    return list(getattr(info.features[_keys(info)[1]], "names", ()))


def _held_out(source) -> str | None:
    return next((split for split in HELD_OUT if split in source.info.splits), None)


def held_out(name: str, data_dir: str) -> np.ndarray:
    """The images of the `test` or else `validation` split of a prepared data set. Raises UserError."""
    return _read(name, _held_out(prepared(name, data_dir)) or "test", data_dir)[0]


def why_absent(name: str, data_dir: str, image_shape: tuple[int, ...]) -> str:
    """Why the images of `held_out` cannot be read; "" if they can. Reads no image."""
    if why := why_unreadable():
        return why
    field = "evaluation.out_of_distribution"
    source = builder(name, data_dir, field)
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


@dataclasses.dataclass(frozen=True)
class Tfds:
    """The published `train`, and `test` or else `validation`, of any TFDS name whose images have one shape."""

    name: str
    data_dir: str

    @property
    def where(self) -> str:
        return self.name

    def read(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        source = prepared(self.name, self.data_dir)
        if "train" not in (splits := source.info.splits):
            raise UserError(f"data.name: {self.name!r} has no train split, but {', '.join(splits)}; choose another")
        parts = {"train": "train", "test": _held_out(source)}
        return {part: _read(self.name, split, self.data_dir) for part, split in parts.items() if split}

    def published_position(self, test: Split) -> np.ndarray:
        """TFDS shuffles, but keeps the position as the example's "id", such as test_04171."""
        source = prepared(self.name, self.data_dir)
        if "id" not in source.info.features or "test" not in source.info.splits:
            raise UserError(
                f"evaluation.shift_source: the positions of {self.name!r} in a published test "
                f"set are unknown; use 'generated' or 'simple'"
            )
        ids = in_order(source, "test", decoders={"image": import_tfds().decode.SkipDecoding()})["id"]
        return np.array([int(name.decode().rpartition("_")[2]) for name in ids])[test.example_id]

    def class_names(self) -> list[str]:
        return label_names(self.name, self.data_dir)
