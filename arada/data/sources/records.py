"""A split that streams from TFRecord files: JPEGs are decoded while the devices work, and never held in memory."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import numpy as np

from arada.data.sources.tfds import import_tensorflow
from arada.data.splits import ALL, Batch, Share
from arada.errors import UserError
from arada.runtime import files as stored_files
from arada.runtime import hosts

# Part of a run's identity, because it decides the order of training: raise it whenever a change below changes that
# order.
ORDER = 2
# Files that each stream holds open in training, and records taken from each in turn, as in TFDS. A host with
# eight streams keeps 128 reads of 8 MB under way, which a bucket needs: one file at a time comes at some 50 MB/s.
_OPEN_FILES = 16
_IN_TURN = 16
_READ_BYTES = 2**23
# Batches that wait decoded: 4,096 images of 224 x 224 are 0.6 GB. The training loop places one more on the devices.
_WAITING = 2


@dataclasses.dataclass(frozen=True)
class RecordFiles:
    """The files of a published split and the number of records in each; an id counts records from the first file on."""

    paths: tuple[str, ...]
    lengths: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.lengths)

    @property
    def starts(self) -> np.ndarray:
        """The id of each file's first record, int64."""
        return np.cumsum((0, *self.lengths[:-1]))

    def path_of(self, example_id: int) -> str:
        """The file that holds an example."""
        return self.paths[int(np.searchsorted(np.cumsum(self.lengths), example_id, side="right"))]

    def check(self) -> None:
        """Reads all files, which takes minutes for 140 GB. Raises UserError naming the first broken file."""
        tf = import_tensorflow()
        for path, length in zip(self.paths, self.lengths, strict=True):
            try:
                records = tf.data.TFRecordDataset(path, buffer_size=_READ_BYTES)
                found = int(records.reduce(np.int64(0), lambda count, _: count + 1))
            except tf.errors.OpError as error:
                raise UserError(
                    f"run.data_dir: {path} cannot be read to its end ({_reason(error)}); copy or prepare it again"
                ) from None
            if found != length:
                raise UserError(
                    f"run.data_dir: {path} holds {found} records, but dataset_info.json beside it says {length}; "
                    f"copy or prepare it again"
                )


@dataclasses.dataclass(frozen=True)
class StreamedSplit:
    """The examples `example_id` (int32[N], ascending) of TFRecord files with a JPEG `image` and a `label` each.

    Has the interface of `arada.data.splits.Split`. Images are uint8: attacks see multiples of 1/255 in [0, 1], which
    is what the JPEGs held before the resize, and a batch takes a quarter of the memory and of the way to the
    devices.

    Args:
      files: the files with the examples.
      image_shape: (H, W, 3), the shape that both crops return.
      num_classes: labels are below it.
      shuffle_buffer: records that wait in a random order, still compressed: 0.11 MB each on ImageNet.
      streams: parts of an epoch that are read apart, each in a random order of its own. Batches take equally from all
      of
        them. Hosts that share an epoch divide the streams, so that none reads what another one trains on.
      train_crop: (jpeg, key int64[2]) -> image uint8, of an epoch. A TensorFlow function, random by its key alone.
      plain_crop: jpeg -> image uint8, of everything else.
    """

    files: RecordFiles
    example_id: np.ndarray
    image_shape: tuple[int, int, int]
    num_classes: int
    shuffle_buffer: int
    train_crop: Callable
    plain_crop: Callable
    streams: int = 1

    def __len__(self) -> int:
        return len(self.example_id)

    @property
    def label_range(self) -> tuple[int, int]:
        """The allowed range; the true one would need all files to be read."""
        return 0, self.num_classes - 1

    @functools.cached_property
    def label(self) -> np.ndarray:
        """The labels int32[N]; this reads all files. Training and evaluation get them with each batch."""
        return self._column("label").astype(np.int32)

    @functools.cached_property
    def file_name(self) -> list[str]:
        """The published file name of each image; this reads all files."""
        return [name.decode() for name in self._column("file_name")]

    def fingerprint(self) -> str:
        """SHA-256 of the ids and of the files' names and lengths: reading the examples themselves would take hours."""
        names = [path.rpartition("/")[2] for path in self.files.paths]
        digest = hashlib.sha256(json.dumps([names, self.files.lengths, self.image_shape]).encode())
        digest.update(np.ascontiguousarray(self.example_id))  # type: ignore[arg-type]
        return digest.hexdigest()

    def take(self, positions: np.ndarray) -> "StreamedSplit":
        """The examples at `positions`, in the order of their ids."""
        return dataclasses.replace(self, example_id=self.example_id[np.sort(positions)])

    def epoch(self, batch_size: int, *, seed: int, epoch: int, skip: int = 0, share: Share = ALL) -> Iterator[Batch]:
        """As `Split.epoch`. The order follows from a shuffle of the files, reading several at once and the shuffle
        buffer; crops are a function of (seed, epoch, example id). Skipped batches are read but not decoded.
        """
        tf = import_tensorflow()
        steps, batch_size = len(self) // batch_size, batch_size // share.count
        records = self._shuffled(np.random.default_rng((seed, epoch)), batch_size, share).skip(skip * batch_size)

        def decode(example_id, record):
            key = tf.random.fold_in(tf.constant([seed, epoch], tf.int64), example_id)
            return self._decoded(example_id, record, functools.partial(self.train_crop, key=key))

        found = self._run(records, decode, batch_size)
        for _ in range(skip, steps):
            batch = next(found, None)
            if batch is None or len(batch["label"]) < batch_size:
                self._tell_broken(f"there are fewer than the {len(self)} examples of an epoch")
            yield batch

    def _shuffled(self, rng: np.random.Generator, batch_size: int, share: Share):
        """The records of an epoch in the order of training, of them the `share` of one host."""
        tf = import_tensorflow()
        if self.streams % share.count or batch_size % (own := self.streams // share.count):
            raise ValueError(
                f"{self.streams} streams cannot be divided among {share.count} hosts and batches of {batch_size}"
            )
        order = rng.permutation(len(self.files.paths))
        file_of = np.searchsorted(np.cumsum(self.files.lengths), self.example_id, side="right")
        ids = np.array_split(self.example_id[np.argsort(np.argsort(order)[file_of], kind="stable")], self.streams)
        seeds = rng.integers(2**31, size=self.streams)
        buffer = max(1, min(self.shuffle_buffer, len(self)) // self.streams)
        streams = [
            self._records(order, ids[stream], open_files=_OPEN_FILES).shuffle(
                buffer, seed=int(seeds[stream]), reshuffle_each_iteration=False
            )
            for stream in range(share.index * own, (share.index + 1) * own)
        ]
        if own == 1:
            return streams[0]
        turns = tf.data.Dataset.range(batch_size).map(lambda row: row // (batch_size // own)).repeat()
        return tf.data.Dataset.choose_from_datasets(streams, turns)

    def in_order(self, batch_size: int, *, batches: Sequence[int] | None = None) -> Iterator[Batch]:
        """As `Split.in_order`; the numbers of `batches` must ascend. Files without wanted examples are not read."""
        numbers = np.arange(-(-len(self) // batch_size)) if batches is None else np.asarray(batches, np.int64)
        if np.any(np.diff(numbers) <= 0):
            raise ValueError(f"batches of a streamed split are read in ascending order, not {numbers.tolist()}")
        if not len(numbers):
            return
        ids = [self.example_id[number * batch_size : (number + 1) * batch_size] for number in numbers]
        records = self._records(np.arange(len(self.files.paths)), np.concatenate(ids))
        decode = functools.partial(self._decoded, crop=self.plain_crop)
        found = self._run(records, decode, batch_size)
        for wanted in ids:
            batch = next(found, None)
            if batch is None or not np.array_equal(batch["example_id"], wanted):
                self._tell_broken(f"examples {wanted[0]} to {wanted[-1]} are not where they should be")
            mask = np.arange(batch_size) < len(wanted)
            at = np.minimum(np.arange(batch_size), len(wanted) - 1)
            yield (batch if mask.all() else {key: value[at] for key, value in batch.items()}) | {"mask": mask}

    def _column(self, feature: str) -> np.ndarray:
        records = self._records(np.arange(len(self.files.paths)), self.example_id)
        batches = self._run(records, lambda _, record: {feature: _parse(record)[feature]}, 4096)
        return np.concatenate([batch[feature] for batch in batches])

    def _records(self, order: np.ndarray, example_ids: np.ndarray, open_files: int = 1):
        """A dataset of (id, record): of the files in `order`, the examples `example_ids`."""
        tf = import_tensorflow()
        wanted = np.zeros(len(self.files), bool)
        wanted[example_ids] = True
        starts, lengths = self.files.starts, self.files.lengths
        read = [number for number in order if wanted[starts[number] : starts[number] + lengths[number]].any()]
        files = tf.data.Dataset.from_tensor_slices(([self.files.paths[number] for number in read], starts[read]))
        records = files.interleave(
            lambda path, start: self._records_in(path).enumerate(start),
            cycle_length=open_files,
            block_length=_IN_TURN,
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        if wanted.all():
            return records
        wanted = tf.constant(wanted)
        return records.filter(lambda example_id, _: wanted[example_id])

    @staticmethod
    def _records_in(path):
        return import_tensorflow().data.TFRecordDataset(path, buffer_size=_READ_BYTES)

    def _decoded(self, example_id, record, crop: Callable) -> dict:
        tf = import_tensorflow()
        example = _parse(record)
        image = tf.ensure_shape(crop(example["image"]), self.image_shape)
        return {
            "image": image,
            "label": tf.cast(example["label"], tf.int32),
            "example_id": tf.cast(example_id, tf.int32),
        }

    def _run(self, records, decode: Callable, batch_size: int) -> Iterator[Batch]:
        """The batches of `records`, the last one as short as it comes, decoded on threads of their own.

        A store that fails is tried again after longer and longer waits; the batches stay the same.
        """
        tf = import_tensorflow()
        options = tf.data.Options()
        options.deterministic = True
        # As many threads as there are cores, beside TensorFlow's threads for other work; one operation, one thread.
        options.threading.private_threadpool_size = 0
        options.threading.max_intra_op_parallelism = 1

        def batches_from(done: int):
            decoded = records.skip(done * batch_size).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
            return iter(decoded.batch(batch_size).prefetch(_WAITING).with_options(options).as_numpy_iterator())

        batches, done, waits = batches_from(0), 0, iter(stored_files.WAITS)
        while True:
            try:
                batch = next(batches, None)
            except tf.errors.OpError as error:
                if not isinstance(error, stored_files.transient_errors()):
                    self._tell_undecodable(records.skip(done * batch_size).take(batch_size), decode, error)
                stored_files.wait_to_retry(waits, f"run.data_dir: {self.files.paths[0]} and others", _reason(error))
                batches = batches_from(done)
                continue
            if batch is None:
                return
            done, waits = done + 1, iter(stored_files.WAITS)
            if "example_id" in batch:
                self._check_labels(batch)
            yield batch

    def _check_labels(self, batch: Batch) -> None:
        # One-hot, a label beyond the classes is a row of zeros, which would train without an error.
        label = batch["label"]
        for at in np.flatnonzero((label < 0) | (label >= self.num_classes))[:1]:
            example_id = int(batch["example_id"][at])
            raise UserError(
                f"run.data_dir: example {example_id}, in {self.files.path_of(example_id)}, has the label {label[at]}, "
                f"but labels are 0..{self.num_classes - 1}; copy or prepare the data set again"
            )

    def _tell_undecodable(self, records, decode: Callable, error: Exception) -> None:
        """Raises UserError naming the example of `records` that `decode` rejects, or the truncated file."""
        tf = import_tensorflow()
        try:
            for example_id, record in records:
                try:
                    decode(example_id, record)
                except tf.errors.InvalidArgumentError as broken:
                    raise UserError(
                        f"run.data_dir: example {int(example_id)}, in {self.files.path_of(int(example_id))}, cannot be "
                        f"decoded ({_reason(broken)}); copy or prepare the data set again"
                    ) from None
        except tf.errors.OpError:
            pass  # a file is broken, not an example
        self._tell_broken(_reason(error))

    def _tell_broken(self, what: str) -> NoReturn:
        if hosts.several():  # the other processes would wait for hours without a message
            raise UserError(f"run.data_dir: {what}; python -m arada.prepare --check finds the broken file")
        self.files.check()
        raise UserError(f"run.data_dir: {what}, although {self.files.paths[0]} and the files after it are whole")


def _parse(record) -> dict:
    tf = import_tensorflow()
    types = {"image": tf.string, "label": tf.int64, "file_name": tf.string}
    return tf.io.parse_single_example(record, {name: tf.io.FixedLenFeature((), of) for name, of in types.items()})


def _reason(error) -> str:
    # TensorFlow wraps the cause in the position in its own graph and pipeline.
    message = error.message.split("}} ")[-1].split(" [Op:")[0].split("\n")[0]
    return re.sub(r"^Error in user-defined function passed to \S+ transformation with iterator: \S+: ", "", message)
