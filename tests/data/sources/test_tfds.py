import json
import os

import numpy as np
import pytest

from arada import data
from arada.data.shifted import published as published_sets
from arada.data.sources import tfds
from arada.errors import UserError
from configs import cifar10

SIZES = {"train": 30, "test": 14}


def cifar10_in(data_dir, **fields):
    config = cifar10.get_config().data
    config.update(fields)
    return data.build(config, str(data_dir))


def tiny_in(data_dir, **fields):
    return cifar10_in(data_dir, **{"name": "tiny", "num_train": 20, "num_validation": 10, "num_test": 14, **fields})


@pytest.fixture(scope="module")
def published():
    """Images and labels of a data set called tiny, in the order of its files."""
    rng = np.random.default_rng(0)
    return {
        split: (rng.integers(0, 256, (size, 4, 4, 3)).astype(np.uint8), rng.integers(0, 5, size).astype(np.int32))
        for split, size in SIZES.items()
    }


def write(path, name, parts, *, ids=True, shape=(4, 4, 3), version="1.0.0", keys=("image", "label")):
    """Prepares a data set as TFDS does, four examples a file; ids say that it was turned round before."""
    library = tfds.import_tfds()
    folder = path / name / version
    folder.mkdir(parents=True)
    identity = library.core.DatasetIdentity(name=name, version=version, data_dir=str(folder), module_name="")
    image, label = keys
    features = {image: library.features.Image(shape=shape), label: library.features.ClassLabel(num_classes=5)}
    features |= {"id": library.features.Text()} if ids else {}
    info = library.core.DatasetInfo(
        builder=identity,
        features=library.features.FeaturesDict(features),
        supervised_keys=None if keys == ("image", "label") else keys,
    )
    writer = library.core.SequentialWriter(info, max_examples_per_shard=4)
    writer.initialize_splits(list(parts))
    for split, (images, labels) in parts.items():
        examples = [{image: pixels, label: at} for pixels, at in zip(images, labels, strict=True)]
        for position, example in enumerate(reversed(examples)):
            example |= {"id": f"{split}_{position:05}"} if ids else {}
        writer.add_examples({split: examples})
    writer.close_all()
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, published):
    """A folder with tiny, and with one that has nothing but images to train on."""
    path = tmp_path_factory.mktemp("tfds")
    write(path, "tiny", published)
    assert len(list(path.rglob("*.tfrecord*"))) == 8 + 4
    write(path, "without_test", {"train": published["test"]})
    write(path, "without_ids", {"train": published["train"], "test": published["test"]}, ids=False)
    return path


def test_an_id_is_the_position_in_the_files(data_dir, published):
    splits = tiny_in(data_dir).splits()
    for name, source in (("train", "train"), ("validation", "train"), ("test", "test")):
        images, labels = published[source]
        split = splits[name]
        assert split.image.dtype == np.uint8
        np.testing.assert_array_equal(split.image, images[split.example_id])
        np.testing.assert_array_equal(split.label, labels[split.example_id])
    np.testing.assert_array_equal(splits["test"].example_id, np.arange(14))
    of_train = np.concatenate([splits[name].example_id for name in ("train", "validation")])
    np.testing.assert_array_equal(np.sort(of_train), np.arange(30))


def test_smaller_sizes_take_a_random_part(data_dir):
    fields = {"num_train": 12, "num_validation": 8, "num_test": 6}
    first, other = (tiny_in(data_dir, split_seed=seed, **fields).splits() for seed in (0, 1))
    assert {name: len(split) for name, split in first.items()} == {"train": 12, "validation": 8, "test": 6}
    assert not set(first["train"].example_id) & set(first["validation"].example_id)
    for name, split in first.items():
        assert not np.array_equal(split.example_id, other[name].example_id)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_train": 25}, r"data\.num_train \+ data\.num_validation is 35, but tiny has 30"),
        ({"num_test": 15}, r"data\.num_test is 15, but tiny has 14"),
    ],
)
def test_sizes_beyond_the_published(data_dir, fields, named):
    with pytest.raises(UserError, match=named):
        tiny_in(data_dir, **fields).splits()


def test_shifted_images_keep_ids_and_labels(data_dir):
    dataset = tiny_in(data_dir)
    test = dataset.splits()["test"]
    for name, severity in (("noise", 1), ("rotation", 5)):
        shifted, again = (dataset.shifted(test, name, severity) for _ in range(2))
        np.testing.assert_array_equal(shifted.image, again.image)
        np.testing.assert_array_equal(shifted.example_id, test.example_id)
        np.testing.assert_array_equal(shifted.label, test.label)
        assert shifted.image.dtype == np.float32
        assert 0 < np.mean(np.abs(shifted.image - test.image / 255)) < 0.5


def test_examples_from_elsewhere_have_no_class(data_dir, published):
    elsewhere = tiny_in(data_dir).out_of_distribution("tiny")
    np.testing.assert_array_equal(elsewhere.image, published["test"][0])
    np.testing.assert_array_equal(elsewhere.label, np.full(14, -1))
    np.testing.assert_array_equal(elsewhere.example_id, np.arange(14))


def test_the_published_position_is_in_the_example_s_id(data_dir):
    for num_test in (14, 6):
        dataset = tiny_in(data_dir, num_test=num_test)
        test = dataset.splits()["test"]
        np.testing.assert_array_equal(dataset.published_position(test), 13 - test.example_id)


def test_data_without_ids_have_no_published_position(data_dir):
    dataset = tiny_in(data_dir, name="without_ids")
    with pytest.raises(UserError, match=r"evaluation.shift_source: the positions of 'without_ids' in a published"):
        dataset.published_position(dataset.splits()["test"])


def test_class_names(data_dir):
    assert tiny_in(data_dir).class_names() == ["0", "1", "2", "3", "4"]  # prepared without names


def test_why_a_set_from_elsewhere_is_absent(data_dir, tmp_path):
    assert tiny_in(data_dir).why_absent("tiny", (4, 4, 3)) == ""
    reason = tiny_in(tmp_path).why_absent("svhn_cropped", (32, 32, 3))
    assert reason.startswith(f"it is not prepared in {tmp_path}")
    assert "python -m arada.prepare --config=..." in reason


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_data_set", r"evaluation.out_of_distribution must be a data set .*, not 'no_such_data_set'"),
        ("imagenet_resized/33x33", r"out_of_distribution='imagenet_resized/33x33' cannot be opened .*33x33 not found"),
        ("mnist", r"evaluation.out_of_distribution names 'mnist', whose images are \(28, 28, 1\), not \(4, 4, 3\)"),
        ("without_test", r"'without_test', which has no test or validation split"),
    ],
)
def test_a_set_that_can_never_do_is_an_error(data_dir, name, message):
    with pytest.raises(UserError, match=message):
        tiny_in(data_dir).why_absent(name, (4, 4, 3))


@pytest.mark.parametrize("test_part", [{}, {"validation": "test"}])
def test_other_splits_and_names_of_features(tmp_path, published, test_part):
    parts = {"train": published["train"]} | {name: published[of] for name, of in test_part.items()}
    write(tmp_path, "tiny", parts, keys=("picture", "kind"))
    splits = tiny_in(tmp_path, num_train=10, num_validation=8, num_test=12).splits()
    images, labels = published["test" if test_part else "train"]
    test = splits["test"]
    np.testing.assert_array_equal(test.image, images[test.example_id])
    np.testing.assert_array_equal(test.label, labels[test.example_id])
    of_train = [splits[name].example_id for name in ("train", "validation", *(() if test_part else ("test",)))]
    assert len(np.unique(np.concatenate(of_train))) == (18 if test_part else 30)


def test_images_of_many_sizes_are_refused(tmp_path, monkeypatch):
    images = [np.zeros((side, 4, 3), np.uint8) for side in (4, 4, 5, 4)]
    write(tmp_path, "varied", {"train": (images, [0, 1, 2, 3])}, shape=(None, None, 3))
    for batch in (1024, 2):  # they differ within a batch, and from one to the next
        monkeypatch.setattr(tfds, "_BATCH", batch)
        with pytest.raises(UserError, match=r"images of 'varied' differ in shape.*data.source='folder' resizes"):
            tiny_in(tmp_path, name="varied").splits()


def cut(folder, kept):
    file = min(folder.glob("*train*tfrecord*"))
    file.write_bytes(file.read_bytes()[:kept])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: cut(folder, 50), r"\(truncated record at 0' failed with Read less bytes than requested\)"),
        (lambda folder: cut(folder, 0), r"\(.*26.*\)"),
        (lambda folder: min(folder.glob("*train*tfrecord*")).unlink(), r"\(.* No such file or directory\)"),
    ],
)
def test_half_written_files(tmp_path, published, damage, reason):
    folder = write(tmp_path, "tiny", published)
    damage(folder)
    with pytest.raises(
        UserError, match=rf"the files in {folder} are broken or incomplete {reason}; delete that folder"
    ):
        tiny_in(tmp_path).splits()


def test_half_a_description(tmp_path, published):
    folder = write(tmp_path, "tiny", published)
    described = (folder / "dataset_info.json").read_text()
    (folder / "dataset_info.json").write_text(described[: len(described) // 2])
    with pytest.raises(UserError, match=rf"data.name='tiny' cannot be opened in {tmp_path} \(.+\); name another"):
        tiny_in(tmp_path).splits()


def test_no_description(tmp_path):
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"cifar10/3.0.2 are broken or incomplete \(there is no dataset_info.json\); delete"
    ):
        cifar10_in(tmp_path).splits()


def test_another_version_is_named(tmp_path, published):
    write(tmp_path, "cifar10", published, version="3.0.1")
    with pytest.raises(
        UserError, match=r"not prepared in .*3.0.2 \(there is 3.0.1: data.name=cifar10:3.0.1\); prepare it"
    ):
        cifar10_in(tmp_path).splits()
    named = {"name": "cifar10:3.0.1", "num_train": 20, "num_validation": 10, "num_test": 14}
    assert len(cifar10_in(tmp_path, **named).splits()["train"]) == 20
    with pytest.raises(UserError, match=r"'cifar10:9.9.9' cannot be opened .* version 9.9.9, only: 3.0.2"):
        cifar10_in(tmp_path, name="cifar10:9.9.9").splits()


def test_data_without_classes(tmp_path, published):
    write(tmp_path, "tiny", published, keys=("image", "kind"))
    info = tmp_path / "tiny" / "1.0.0" / "dataset_info.json"
    described = json.loads(info.read_text())
    del described["supervisedKeys"]
    info.write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"data.name: 'tiny' has no label; choose one that classifies images"):
        tiny_in(tmp_path).splits()


def test_missing_data_name_the_command(tmp_path):
    with pytest.raises(UserError, match=r"'cifar10'.*python -m arada\.prepare") as error:
        cifar10_in(tmp_path).splits()
    assert str(tmp_path) in str(error.value)


def test_missing_data_from_elsewhere_name_the_command(tmp_path):
    with pytest.raises(UserError, match=r"'svhn_cropped'.*python -m arada\.prepare"):
        cifar10_in(tmp_path).out_of_distribution("svhn_cropped")


def test_unknown_name(tmp_path):
    with pytest.raises(UserError, match=r"data\.name .*'no_such_data_set'"):
        cifar10_in(tmp_path, name="no_such_data_set").splits()


@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR names no folder with a prepared cifar10")
def test_cifar10_is_split_as_the_paper_says():
    first = cifar10_in("").splits()
    assert {name: len(split) for name, split in first.items()} == {"train": 45_000, "validation": 5_000, "test": 10_000}
    train, validation, test = first.values()
    of_train = np.concatenate([train.example_id, validation.example_id])
    np.testing.assert_array_equal(np.sort(of_train), np.arange(50_000))
    np.testing.assert_array_equal(test.example_id, np.arange(10_000))
    for split in first.values():
        assert split.image.dtype == np.uint8
        assert split.image.shape[1:] == (32, 32, 3)
    np.testing.assert_array_equal(np.bincount(train.label) + np.bincount(validation.label), np.full(10, 5_000))
    np.testing.assert_array_equal(np.bincount(test.label), np.full(10, 1_000))
    assert cifar10_in("").class_names()[:3] == ["airplane", "automobile", "bird"]

    # TFDS sorts by a hash of the id.
    position = cifar10_in("").published_position(test)
    assert sorted(position) == list(range(10_000))
    ids = [f"test_{at:05}" for at in position]
    assert published_sets.hashed_order(ids, "test") == ids

    # The order is that of the files, whenever they are read.
    images, labels = tfds._read.__wrapped__("cifar10", "test", "")
    np.testing.assert_array_equal(images, test.image)
    np.testing.assert_array_equal(labels, test.label)


def test_a_tilde_is_the_home_folder(published, tmp_path, monkeypatch):
    write(tmp_path / "data", "tiny", published)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(tiny_in("~/data").splits()["test"]) == 14


def test_a_folder_whose_name_is_a_pattern_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"run.data_dir=.*data\[1\] has \[ in its name"):
        tiny_in(tmp_path / "data[1]").splits()
