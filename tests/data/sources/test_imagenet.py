"""ImageNet as a stream: orders, shares of hosts, resumed epochs, broken files and stores that fail."""

import collections
import dataclasses
import io
import pathlib
import re
import shutil
import time

import numpy as np
import pytest
from jpegs import as_in_tf1, by_hand, encoded, gradient

from arada import data
from arada.data.sources import records, tfds
from arada.data.splits import Share, Split
from arada.errors import UserError
from arada.runtime import files, hosts
from configs import imagenet as config_file

SIZES = {"train": 60, "validation": 20}
LABELS = 5


@pytest.fixture(scope="module")
def published():
    """JPEGs of many sizes, every seventh grey and every eleventh CMYK, and their labels."""
    rng = np.random.default_rng(0)
    of_split = {}
    for split, size in SIZES.items():
        jpegs = []
        for number in range(size):
            height, width = rng.integers(20, 50, 2)
            pixels = np.roll(gradient(height, width), number, axis=-1) // 2 + np.uint8(number)
            mode = "L" if number % 7 == 0 else "CMYK" if number % 11 == 0 else "RGB"
            jpegs.append(encoded(pixels, mode))
        of_split[split] = jpegs, rng.integers(0, LABELS, size)
    return of_split


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, published):
    """A folder with these as TFDS prepares them, in files of seven."""
    library = tfds.import_tfds()
    path = tmp_path_factory.mktemp("tfds")
    folder = path / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    identity = library.core.DatasetIdentity(name="tiny", version="1.0.0", data_dir=str(folder), module_name="")
    features = library.features.FeaturesDict(
        {
            "image": library.features.Image(encoding_format="jpeg"),
            "label": library.features.ClassLabel(num_classes=LABELS),
            "file_name": library.features.Text(),
        }
    )
    writer = library.core.SequentialWriter(
        library.core.DatasetInfo(builder=identity, features=features), max_examples_per_shard=7
    )
    writer.initialize_splits(list(published))
    for split, (jpegs, labels) in published.items():
        examples = [
            {"image": io.BytesIO(jpeg), "label": label, "file_name": f"ILSVRC2012_val_{len(jpegs) - number:08}.JPEG"}
            for number, (jpeg, label) in enumerate(zip(jpegs, labels, strict=True))
        ]
        writer.add_examples({split: examples})
    writer.close_all()
    assert len(list(path.rglob("*.tfrecord*"))) == 9 + 3
    return path


def splits_in(data_dir, **fields):
    config = config_file.get_config().data
    sizes = {"num_train": 60, "num_validation": 10, "num_test": 10, "streams": 4}
    config.update({"name": "tiny", "num_classes": LABELS, "image_shape": (16, 16, 3), **sizes, **fields})
    return data.load_splits(data.build(config, str(data_dir)), config)


@pytest.fixture(scope="module")
def train(data_dir):
    return splits_in(data_dir)["train"]


def joined(batches):
    batches = list(batches)
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def assert_equal(first, other):
    assert first.keys() == other.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, other[key], err_msg=key)


def test_an_epoch_is_a_function_of_seed_and_epoch(train):
    first, again = (joined(train.epoch(8, seed=3, epoch=2)) for _ in range(2))
    assert_equal(first, again)
    assert first["image"].shape == (56, 16, 16, 3)
    assert first["image"].dtype == np.uint8
    assert first["label"].dtype == first["example_id"].dtype == np.int32
    assert len(set(first["example_id"])) == 56
    for seed, epoch in ((3, 3), (4, 2)):
        other = joined(train.epoch(8, seed=seed, epoch=epoch))
        assert np.mean(first["example_id"] == other["example_id"]) < 0.2
        # The same example, cropped again.
        ours, theirs = np.argsort(first["example_id"]), np.argsort(other["example_id"])
        shared = np.intersect1d(first["example_id"], other["example_id"])
        ours = ours[np.isin(first["example_id"][ours], shared)]
        theirs = theirs[np.isin(other["example_id"][theirs], shared)]
        same = [np.array_equal(a, b) for a, b in zip(first["image"][ours], other["image"][theirs], strict=True)]
        assert np.mean(same) < 0.1


def test_files_and_records_are_both_shuffled(data_dir):
    ids = joined(splits_in(data_dir, shuffle_buffer=1, streams=1)["train"].epoch(60, seed=0, epoch=0))["example_id"]
    # A buffer of one leaves whole files one after the other, in another order.
    assert np.mean(np.diff(ids) == 1) > 0.8
    assert not np.array_equal(ids, np.arange(60))
    ids = joined(splits_in(data_dir, shuffle_buffer=60, streams=1)["train"].epoch(60, seed=0, epoch=0))["example_id"]
    assert np.mean(np.diff(ids) == 1) < 0.1


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_shares_of_the_batches_of_one(data_dir, hosts):
    train = splits_in(data_dir, streams=4)["train"]
    whole = list(train.epoch(8, seed=2, epoch=1, skip=2))
    shares = [list(train.epoch(8, seed=2, epoch=1, skip=2, share=Share(host, hosts))) for host in range(hosts)]
    assert [len(of_host) for of_host in shares] == [5] * hosts
    for expected, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert {len(part["label"]) for part in parts} == {8 // hosts}
        assert_equal({key: np.concatenate([part[key] for part in parts]) for key in expected}, expected)


def test_a_host_reads_its_own_files_alone(data_dir, monkeypatch):
    train, read = splits_in(data_dir, streams=4)["train"], []
    records = type(train)._records

    def watched(self, order, example_ids, **settings):
        read.append(set(example_ids.tolist()))
        return records(self, order, example_ids, **settings)

    monkeypatch.setattr(type(train), "_records", watched)
    for host in range(2):
        next(train.epoch(8, seed=0, epoch=0, share=Share(host, 2)))
    # Two streams of fifteen examples each; together they are the split.
    assert [len(ids) for ids in read] == [15] * 4
    assert set.union(*read) == set(range(60))
    with pytest.raises(ValueError, match="4 streams cannot be divided among 3 hosts"):
        next(train.epoch(12, seed=0, epoch=0, share=Share(0, 3)))


@pytest.mark.parametrize("skip", [1, 6, 7])
def test_a_resumed_epoch_is_its_tail(train, skip):
    whole = list(train.epoch(8, seed=0, epoch=5))
    tail = list(train.epoch(8, seed=0, epoch=5, skip=skip))
    assert (len(whole), len(tail)) == (7, 7 - skip)
    for expected, found in zip(whole[skip:], tail, strict=True):
        assert_equal(expected, found)


def test_a_crop_does_not_depend_on_who_else_is_read(train):
    """A part of the split has another order, and the same crop of each example."""
    part = joined(train.take(np.arange(0, 60, 4)).epoch(8, seed=1, epoch=1))
    whole = joined(train.epoch(56, seed=1, epoch=1))
    at = {example_id: position for position, example_id in enumerate(whole["example_id"])}
    shared = [(position, at[example_id]) for position, example_id in enumerate(part["example_id"]) if example_id in at]
    assert len(shared) > 4
    for position, of_whole in shared:
        np.testing.assert_array_equal(part["image"][position], whole["image"][of_whole])


def test_an_id_is_the_position_in_the_files(data_dir, published):
    splits = splits_in(data_dir)
    for name, source in (("train", "train"), ("validation", "validation"), ("test", "validation")):
        jpegs, labels = published[source]
        found = joined(splits[name].in_order(4))
        found = {key: value[found["mask"]] for key, value in found.items()}
        np.testing.assert_array_equal(found["example_id"], splits[name].example_id)
        np.testing.assert_array_equal(found["label"], labels[splits[name].example_id])
        np.testing.assert_array_equal(splits[name].label, found["label"])
        assert splits[name].file_name == [f"ILSVRC2012_val_{len(jpegs) - at:08}.JPEG" for at in found["example_id"]]
        for example_id, image in zip(found["example_id"], found["image"], strict=True):
            np.testing.assert_allclose(image.astype(int), by_hand(jpegs[example_id], 16, as_in_tf1), atol=1)
    held_out = np.concatenate([splits["validation"].example_id, splits["test"].example_id])
    np.testing.assert_array_equal(np.sort(held_out), np.arange(20))
    assert not np.array_equal(splits["validation"].example_id, np.arange(10))


def test_the_published_position_is_that_of_the_file_s_name(data_dir):
    config = config_file.get_config().data
    config.update({"name": "tiny", "num_classes": LABELS, "num_train": 60, "num_validation": 10, "num_test": 10})
    dataset = data.build(config, str(data_dir))
    test = dataset.splits()["test"]
    # The fixture numbers the 20 files from the last to the first, 1 to 20.
    np.testing.assert_array_equal(dataset.published_position(test), 19 - test.example_id)


def test_in_order_is_as_in_memory(train):
    in_memory = Split(np.stack([batch["image"][0] for batch in train.in_order(1)]), train.label, train.example_id)
    for numbers in (None, [], [0], [1, 3], [2, 4]):
        ours, theirs = (list(split.in_order(13, batches=numbers)) for split in (train, in_memory))
        assert len(ours) == len(theirs) == (5 if numbers is None else len(numbers))
        for found, expected in zip(ours, theirs, strict=True):
            assert_equal(expected, found)
    with pytest.raises(ValueError, match=r"ascending order, not \[3, 1\]"):
        list(train.in_order(13, batches=[3, 1]))


def broken_copy(data_dir, tmp_path, split, change):
    """The data set with the bytes of one file of `split` changed, and that file's path."""
    copy = tmp_path / "broken"
    shutil.copytree(data_dir, copy)
    file = sorted(copy.rglob(f"tiny-{split}.tfrecord-*"))[1]
    file.write_bytes(change(file.read_bytes()))
    return copy, str(file)


def first_record(content):
    return int.from_bytes(content[:8], "little") + 16


CHANGES = {
    "truncated": (lambda content: content[: len(content) // 2], "cannot be read to its end"),
    "shorter by a record": (lambda content: content[first_record(content) :], r"holds 6 records.* says 7"),
    "another byte": (lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:], "cannot be read"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_broken_file_is_named(data_dir, tmp_path, what):
    change, message = CHANGES[what]
    copy, file = broken_copy(data_dir, tmp_path, "train", change)
    split = splits_in(copy)["train"]
    # Batches that leave no example over: every record is missed.
    for batches in (split.in_order(4), split.epoch(4, seed=0, epoch=0)):
        with pytest.raises(UserError, match=f"run.data_dir: {re.escape(file)} {message}"):
            list(batches)


def test_a_missing_file_is_named(data_dir, tmp_path):
    copy, file = broken_copy(data_dir, tmp_path, "train", lambda content: content)
    pathlib.Path(file).unlink()
    with pytest.raises(UserError, match=f"{re.escape(file)} cannot be read to its end .*No such file"):
        list(splits_in(copy)["train"].epoch(8, seed=0, epoch=0))


def rewritten(train, tmp_path, change):
    """The split with the features of example 23 changed, in files of its own."""
    tf = tfds.import_tensorflow()
    files = dataclasses.replace(train.files, paths=tuple(f"{tmp_path}/{number}" for number in range(9)))
    for number, (path, changed) in enumerate(zip(train.files.paths, files.paths, strict=True)):
        with tf.io.TFRecordWriter(changed) as writer:
            for position, record in enumerate(tf.data.TFRecordDataset(path).as_numpy_iterator()):
                example = tf.train.Example.FromString(record)
                if number * 7 + position == 23:
                    change(example.features.feature)
                writer.write(example.SerializeToString())
    return dataclasses.replace(train, files=files)


def test_a_broken_jpeg_is_named(train, tmp_path):
    def halve(feature):
        jpeg = feature["image"].bytes_list.value
        jpeg[0] = jpeg[0][: len(jpeg[0]) // 2]

    split = rewritten(train, tmp_path, halve)
    for batches in (split.in_order(8), split.epoch(8, seed=0, epoch=1)):
        with pytest.raises(UserError, match=f"example 23, in {tmp_path}/3, cannot be decoded .*JPEG") as error:
            list(batches)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("label", [-1, LABELS])
def test_a_label_beyond_the_classes_is_named(train, tmp_path, label):
    def relabel(feature):
        feature["label"].int64_list.value[0] = label

    split = rewritten(train, tmp_path, relabel)
    for batches in (split.in_order(8), split.epoch(8, seed=0, epoch=1)):
        with pytest.raises(
            UserError, match=rf"example 23, in {tmp_path}/3, has the label {label}, but .* 0\.\.4; copy"
        ):
            list(batches)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_train": 61}, r"data\.num_train is 61, but tiny in .* has 60 images in its 'train' split"),
        ({"num_test": 11}, r"data\.num_validation \+ data\.num_test is 21, but tiny .* has 20"),
        ({"num_test": 0}, r"data\.num_test leaves the test split without images"),
        ({"num_classes": 4}, r"data\.num_classes is 4, but labels of the train split range from 0 to 4"),
        ({"name": "imagenet2012"}, r"'imagenet2012' is not prepared in .*python -m arada\.prepare"),
    ],
)
def test_a_config_that_does_not_fit_the_files(data_dir, fields, named):
    with pytest.raises(UserError, match=named):
        splits_in(data_dir, **fields)


def delivered(contents, failures, attempts):
    """A store in place of `StreamedSplit._records_in`: the third file stalls and fails, so often, then comes."""
    tf = tfds.import_tensorflow()

    def read(path):
        name = path.decode()
        attempts[name] += 1
        if name.endswith("-00002") and attempts[name] <= failures:
            time.sleep(0.1)
            raise OSError("connection reset by the store")
        return np.array(contents[name], object)

    def of_file(path):
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(tf.numpy_function(read, [path], tf.string), [None]))

    return staticmethod(of_file)


@pytest.fixture
def store(train, monkeypatch):
    """store(failures) puts such a store in place, without waits, and returns how often each file is asked for."""
    tf = tfds.import_tensorflow()
    contents = {path: list(tf.data.TFRecordDataset(path).as_numpy_iterator()) for path in train.files.paths}
    monkeypatch.setattr(files, "WAITS", (0, 0, 0))

    def put(failures):
        attempts = collections.Counter()
        monkeypatch.setattr(records.StreamedSplit, "_records_in", delivered(contents, failures, attempts))
        return attempts

    return put


def test_a_store_that_stalls_and_fails_twice_ends_in_the_same_epoch(train, store, caplog):
    expected = joined(train.epoch(8, seed=3, epoch=1)), joined(train.in_order(8))
    for passes, kind in ((lambda: train.epoch(8, seed=3, epoch=1), 0), (lambda: train.in_order(8), 1)):
        attempts = store(failures=2)
        assert_equal(joined(passes()), expected[kind])
        assert max(attempts.values()) >= 3
    assert "a read failed (OSError: connection reset by the store" in caplog.text


def test_a_store_that_stays_away_ends_in_one_line(train, store):
    store(failures=100)
    with pytest.raises(
        UserError, match=r"run.data_dir: .* cannot be read, after 4 attempts \(OSError: connection reset"
    ):
        joined(train.epoch(8, seed=3, epoch=1))


def test_one_of_several_hosts_does_not_read_everything(data_dir, tmp_path, monkeypatch):
    copy, _ = broken_copy(data_dir, tmp_path, "train", lambda content: content[:-10])
    monkeypatch.setattr(hosts, "several", lambda: True)
    monkeypatch.setattr(records.RecordFiles, "check", lambda self: pytest.fail("all was read"))
    with pytest.raises(UserError, match=r"python -m arada.prepare --check finds the broken file"):
        joined(splits_in(copy)["train"].in_order(8))
