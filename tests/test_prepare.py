"""The command that says what is there: exit codes, what to fetch by hand, and one line for a download that fails."""

import logging
import types

import commands
import numpy as np
import pytest

from arada import data, prepare
from arada.data.sources import tfds
from arada.data.sources.records import RecordFiles, StreamedSplit
from arada.data.splits import Split
from arada.errors import UserError
from configs import cifar10, digits, imagenet, own_images


def text(config, download=False):
    return {item.name: (item.is_there, item.text) for item in prepare.items(config, download)}


def with_fields(config, **fields):
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return config


class Builder:
    """A data set that cannot be downloaded."""

    name, MANUAL_DOWNLOAD_INSTRUCTIONS = "cifar10", None

    def __init__(self, path):
        self.data_path = path / "cifar10" / "3.0.2"
        self.info = type("Info", (), {"full_name": "cifar10/3.0.2", "splits": {}})

    def download_and_prepare(self):
        raise ConnectionError("host is down\nand more")


def test_what_is_installed_is_there():
    assert text(digits.get_config()) == {
        "digits": (True, "train 800, validation 500, test 497 images"),
        "photographs": (True, "418 images"),
    }


def test_a_folder_of_ones_own(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros((9, 4, 4, 3), np.uint8), label=np.arange(9))
    few = {"data__num_train": 5, "data__num_validation": 2, "data__num_test": 2, "data__image_shape": (4, 4, 3)}
    config = with_fields(own_images.get_config(), data__source="npz", run__data_dir=str(tmp_path / "a.npz"), **few)
    assert text(config) == {"npz": (True, f"train 5, validation 2, test 2 images in {tmp_path / 'a.npz'}")}
    config.data.num_train = 6
    (is_there, why), *_ = text(config).values()
    assert not is_there
    assert "has 9 train images; choose fewer" in why


def test_nothing_is_downloaded_to_check(monkeypatch, tmp_path):
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: Builder(tmp_path))
    monkeypatch.setattr(Builder, "download_and_prepare", lambda self: pytest.fail("downloads"))
    config = with_fields(cifar10.get_config(), evaluation__out_of_distribution=("svhn_cropped",))
    found = text(config)
    is_there, way_out = found["cifar10"]
    assert not is_there
    assert way_out.startswith(f"not in {tmp_path}/cifar10/3.0.2; run this command without --check")
    assert "fetch https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz into a folder DIR" in way_out
    assert "data.source=cifar_archive, run.data_dir=DIR" in way_out
    assert found["svhn_cropped"][0] is False


def test_a_download_that_fails_is_one_line_with_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: Builder(tmp_path))
    is_there, why = text(cifar10.get_config(), download=True)["cifar10"]
    assert not is_there
    assert "\n" not in why
    assert why.startswith("could not be downloaded (ConnectionError: host is down); run this command")
    assert "cifar-10-binary.tar.gz" in why


def test_streamed_files_are_read_to_their_end(monkeypatch, tmp_path, caplog):
    """Validation and test are parts of the same files, which are read once."""
    crops = {"image_shape": (224, 224, 3), "num_classes": 1000, "train_crop": None, "plain_crop": None}

    def streamed(name):
        paths = [str(tmp_path / f"{name}-{number}") for number in range(2)]
        for path in paths:
            with tfds.import_tensorflow().io.TFRecordWriter(path) as writer:
                for _ in range(3):
                    writer.write(b"an example")
        return StreamedSplit(RecordFiles(tuple(paths), (3, 3)), np.arange(6), shuffle_buffer=1, **crops)

    train, held_out = streamed("train"), streamed("validation")
    splits = {"train": train, "validation": held_out.take(np.arange(2)), "test": held_out.take(np.arange(2, 6))}
    monkeypatch.setattr(data, "build", lambda *_: types.SimpleNamespace(splits=lambda: splits))
    monkeypatch.setattr(tfds, "builder", lambda *_: types.SimpleNamespace(data_path=tmp_path))
    with caplog.at_level(logging.INFO, logger="arada"):
        is_there = text(imagenet.get_config())["imagenet2012"]
    assert is_there == (True, f"train 6, validation 2, test 4 images in {tmp_path}")
    logged = [f"imagenet2012: reading all files, 2 from {tmp_path}/{name}-0 on" for name in ("train", "validation")]
    assert caplog.messages == logged
    file = tmp_path / "validation-1"
    file.write_bytes(file.read_bytes()[:-1])
    is_there, why = text(imagenet.get_config())["imagenet2012"]
    assert not is_there
    assert why.startswith(f"run.data_dir: {file} cannot be read to its end")


def test_imagenet_is_fetched_by_hand(tmp_path):
    builder = tfds.builder("imagenet2012", str(tmp_path))
    way_out = prepare._by_hand(builder)
    assert f"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {tmp_path}/downloads/manual" in way_out
    # Whatever else TFDS cannot fetch brings TFDS' own words.
    assert f"put into {tmp_path}/downloads/manual what TFDS asks" in prepare._by_hand(
        tfds.builder("resisc45", str(tmp_path))
    )


def shifted(source, published_dir=""):
    config = with_fields(cifar10.get_config(), evaluation__shift_source=source, run__published_dir=published_dir)
    config.evaluation.shifts = ("fog", "frost")
    config.data.source = "cifar_archive"
    test = Split(np.zeros((5, 32, 32, 3), np.uint8), np.arange(5), np.arange(5))
    dataset = data.build(config.data, "/archives")
    item = prepare._shifted(config, dataset, test, "/nowhere", download=False)
    assert "training data are there" in prepare._shifted(config, dataset, None, "/nowhere", download=False).text
    return item


def test_published_corruptions_are_fetched_by_hand(tmp_path):
    item = shifted("published")
    assert not item.is_there
    assert item.text.endswith(
        "fetch CIFAR-10-C.tar of https://zenodo.org/records/2535967, unpack, set run.published_dir to the folder"
    )
    assert "is empty; name the folder of an unpacked CIFAR-10-C" in shifted("published", str(tmp_path)).text
    np.save(tmp_path / "labels.npy", np.tile(np.arange(5), 5))
    np.save(tmp_path / "fog.npy", np.zeros((25, 32, 32, 3), np.uint8))
    item = shifted("published", str(tmp_path))
    assert not item.is_there
    assert item.text.startswith(f"1 of 2 types; without frost: {tmp_path} has no frost.npy; fetch CIFAR-10-C.tar")
    np.save(tmp_path / "frost.npy", np.zeros((25, 32, 32, 3), np.uint8))
    assert shifted("published", str(tmp_path)) == ("published shifts", True, "2 of 2 types")
    np.save(tmp_path / "labels.npy", np.tile(np.arange(5)[::-1], 5))
    assert "labels differ from the test labels" in shifted("published", str(tmp_path)).text


@pytest.mark.usefixtures("no_frost")
def test_what_is_generated_needs_nothing():
    item = shifted("generated")
    assert item.is_there
    assert item.text.startswith("1 of 2 types; without frost: `pip install")


def test_command():
    expected = {
        "digits": (0, "digits                   ready    train 800"),
        "own_images": (1, "error: run.data_dir is empty"),
        "nothing": (1, "error: "),
    }
    done = commands.run(*(("arada.prepare", f"--config=configs/{name}.py") for name in expected))
    for result, (code, output) in zip(done, expected.values(), strict=True):
        assert result.returncode == code, result.stderr
        assert output in result.stdout + result.stderr
        assert "Traceback" not in result.stderr


class Source:
    """Images as TFDS has them: in an order of its own, with that of their publisher beside."""

    where = "a source"
    parts = {  # noqa: RUF012
        "train": (np.arange(10 * 48, dtype=np.uint8).reshape(10, 4, 4, 3), np.arange(10) % 3),
        "test": (np.arange(4 * 48, dtype=np.uint8).reshape(4, 4, 4, 3)[::-1], np.arange(4) % 3),
    }

    def read(self):
        return self.parts

    def published_position(self, test):
        return np.array([3, 0, 2, 1])[test.example_id]

    def class_names(self):
        return ["Katze", "Hünd", "Maus"]


def test_an_export_keeps_ids_names_and_published_places(tmp_path, monkeypatch):
    sizes = {"num_train": 6, "num_validation": 3, "num_test": 3, "split_seed": 5}
    dataset = data.InMemory(Source(), **sizes)
    monkeypatch.setattr(data, "build", lambda *_: dataset)
    config = with_fields(cifar10.get_config(), data__image_shape=(4, 4, 3))
    told_ = prepare.export(config, str(tmp_path / "all.npz"))
    assert told_.endswith(f"--config.data.source=npz --config.run.data_dir={tmp_path / 'all.npz'}")
    monkeypatch.undo()

    config.data.update(source="npz", num_classes=3, **sizes)
    read = data.build(config.data, str(tmp_path / "all.npz"))
    assert read.class_names() == ["Katze", "Hünd", "Maus"]
    exported, original = read.splits(), dataset.splits()
    for name, split in original.items():
        assert split.fingerprint() == exported[name].fingerprint()
    test = exported["test"]
    np.testing.assert_array_equal(read.published_position(test), dataset.published_position(test))


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(UserError, match=r"--export writes what fits in memory, but data.source is 'digits'"):
        prepare.export(digits.get_config(), str(tmp_path / "a.npz"))
    config = with_fields(own_images.get_config(), run__data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"--export=a.png is not an .npz file"):
        prepare.export(config, "a.png")
