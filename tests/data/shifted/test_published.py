import io

import numpy as np
import pytest

from arada.data.shifted import published
from arada.data.shifted.published import NpyFolder, Published
from arada.data.sources import tfds
from arada.data.splits import Split
from arada.errors import UserError

# Eight published images, five of which are the test split; TFDS has shuffled them.
COUNT, SHAPE, CLASSES = 8, (4, 4, 3), 5
LABELS = np.array([3, 0, 4, 1, 2, 0, 3, 1])
POSITION = np.array([6, 1, 7, 0, 4])


@pytest.fixture
def test():
    ids = np.array([0, 2, 3, 5, 6], np.int32)
    return Split(np.zeros((5, *SHAPE), np.uint8), LABELS[POSITION].astype(np.int32), ids)


@pytest.fixture
def fog():
    return np.random.default_rng(0).integers(0, 256, (5, COUNT, *SHAPE), np.uint8)


@pytest.fixture
def directory(tmp_path, fog):
    """A folder as published, with one type."""
    np.save(tmp_path / "fog.npy", fog.reshape(5 * COUNT, *SHAPE))
    np.save(tmp_path / "labels.npy", np.tile(LABELS, 5).astype(np.uint8))
    return tmp_path


def reader(directory, test, position=POSITION):
    npy = NpyFolder(published.existing(str(directory)), SHAPE, "run.published_dir")
    return Published(test, position, npy, CLASSES)


def test_a_shifted_image_is_that_of_its_published_position(directory, test, fog):
    source = reader(directory, test)
    assert source.absent(["fog", "snow"], [1, 5]) == {"snow": f"{directory} has no snow.npy"}
    for severity in (1, 3, 5):
        shifted = source.shifted("fog", severity)
        np.testing.assert_array_equal(shifted.image, fog[severity - 1, POSITION])
        np.testing.assert_array_equal(shifted.label, test.label)
        np.testing.assert_array_equal(shifted.example_id, test.example_id)


def saved(array, **options):
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


WHOLE = np.zeros((5 * COUNT, *SHAPE), np.uint8)
BROKEN = {
    "of another shape": ("fog", saved(WHOLE[:, :3]), r"fog.npy holds uint8 \[40, 3, 4, 3\], not uint8 \[40, 4, 4, 3\]"),
    "of other images": ("fog", saved(WHOLE[5:]), r"fog.npy holds uint8 \[35, 4, 4, 3\], not uint8 \[40,"),
    "of another dtype": ("fog", saved(WHOLE.astype(np.float32)), r"fog.npy holds float32 \[40, 4, 4, 3\], not uint8"),
    "in another order": ("fog", saved(np.asfortranarray(WHOLE)), r"fog.npy holds uint8"),
    "truncated": ("fog", saved(WHOLE)[:-1], r"fog.npy has 2,047 bytes, not the 2,048 of its header: it is truncated"),
    "no npy": ("fog", b"<html>too many requests</html>", r"fog.npy is not an npy file"),
    "empty": ("fog", b"", r"fog.npy is not an npy file"),
    "without labels": ("labels", None, r"labels.npy does not exist"),
    "broken labels": ("labels", b"\x93NUMPY", r"labels.npy cannot be read"),
    "pickled labels": ("labels", saved(np.array([None] * 40), allow_pickle=True), r"labels.npy cannot be read"),
    "labels once": ("labels", saved(LABELS), r"labels.npy holds int64 \[8\], not five times N whole numbers"),
    "float labels": ("labels", saved(np.tile(LABELS, 5) / 1.0), r"labels.npy holds float64 \[40\]"),
    "labels image by image": ("labels", saved(np.repeat(LABELS, 5)), r"labels.npy has different labels at different"),
    "labels of another data set": ("labels", saved(np.tile(LABELS[::-1], 5)), r"5 of 5 labels differ from the te"),
    "labels of more classes": (
        "labels",
        saved(np.tile(LABELS + 1, 5)),
        r"range from 1 to 5, but data.num_classes is 5",
    ),
    "labels of fewer images": (
        "labels",
        saved(np.tile(LABELS[:7], 5)),
        r"7 images per severity, .* position 7; it bel",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_there_and_broken_is_an_error(directory, test, name, content, message):
    (directory / f"{name}.npy").unlink()
    if content is not None:
        (directory / f"{name}.npy").write_bytes(content)
    with pytest.raises(UserError, match=rf"run\.published_dir: .*{message}"):
        reader(directory, test).absent(["fog"], [1])


def test_a_folder_that_is_not_there_or_empty(tmp_path):
    with pytest.raises(
        UserError, match=r"run.published_dir=.*/nowhere is not a folder; name the folder of an unpacked"
    ):
        published.existing(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is empty"):
        published.existing(str(tmp_path))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(data folder, images [5, COUNT, 32, 32, 3]): TFDS' own builder, given a folder in the place of its download."""
    library = tfds.import_tfds()
    path = tmp_path_factory.mktemp("tfds")
    (path / "CIFAR-10-C").mkdir()
    images = np.random.default_rng(1).integers(0, 256, (5, COUNT, 32, 32, 3), np.uint8)
    np.save(path / "CIFAR-10-C" / "glass_blur.npy", images.reshape(-1, 32, 32, 3))
    np.save(path / "CIFAR-10-C" / "labels.npy", np.tile(LABELS, 5).astype(np.uint8))
    builder = library.builder("cifar10_corrupted/frosted_glass_blur_2", data_dir=str(path))
    arguments = {"data_dir": str(path / "CIFAR-10-C")}
    builder._split_generators = lambda _: [library.core.SplitGenerator(name="test", gen_kwargs=arguments)]
    builder.download_and_prepare()
    return path, images


def test_tfds_order_is_undone(prepared, test):
    path, images = prepared
    source = published.Tfds(test, POSITION, "cifar10", str(path), crop=False)
    reasons = source.absent(["glass_blur", "fog"], [2])
    assert list(reasons) == ["fog"]
    assert "severity 2 of cifar10_corrupted is not prepared; prepare it with `python -m arada.prep" in reasons["fog"]
    assert "severity 1, 3 of" in source.absent(["glass_blur"], [1, 2, 3])["glass_blur"]
    # TFDS did shuffle.
    assert published.hashed_order("01234567", "test") != list("01234567")
    shifted = source.shifted("glass_blur", 2)
    np.testing.assert_array_equal(shifted.image, images[1, POSITION])
    np.testing.assert_array_equal(shifted.example_id, test.example_id)


def test_tfds_images_of_another_test_set(prepared, test):
    source = published.Tfds(test, np.roll(POSITION, 1), "cifar10", str(prepared[0]), crop=False)
    with pytest.raises(UserError, match=r"run.data_dir: cifar10_corrupted.* 5 of 5 labels differ from the test labels"):
        source.absent(["fog", "glass_blur"], (2,))
    source = published.Tfds(test, POSITION + 5, "cifar10", str(prepared[0]), crop=False)
    with pytest.raises(UserError, match=r"has 8 images per severity, .* position 12; it belongs to another data set"):
        source.shifted("glass_blur", 2)


def test_imagenet_of_tfds_is_joined_by_file_name(tmp_path):
    library = tfds.import_tfds()
    folder = tmp_path / "imagenet2012_corrupted" / "glass_blur_1" / "3.1.0"
    folder.mkdir(parents=True)
    features = library.builder("imagenet2012_corrupted/glass_blur_1", data_dir=str(tmp_path)).info.features
    identity = library.core.DatasetIdentity(
        name="imagenet2012_corrupted", version="3.1.0", data_dir=str(folder), module_name="", config_name="glass_blur_1"
    )
    info = library.core.DatasetInfo(builder=identity, features=features)
    writer = library.core.SequentialWriter(info, max_examples_per_shard=2)
    writer.initialize_splits(["validation"])
    for number in (3, 1, 4, 2):
        image = np.full((224, 224, 3), 50 * number, np.uint8)
        example = {"image": image, "label": 100 * number, "file_name": f"ILSVRC2012_val_{number:08}.JPEG"}
        writer.add_examples({"validation": [example]})
    writer.close_all()
    labels, ids = np.array([400, 200], np.int32), np.array([7, 9], np.int32)
    halves = Split(np.zeros((2, 1), np.uint8), labels, ids)
    source = published.Tfds(halves, np.array([3, 1]), "imagenet2012", str(tmp_path), crop=False)
    assert list(source.absent(["glass_blur", "fog"], (1,))) == ["fog"]
    shifted = source.shifted("glass_blur", 1)
    assert np.abs(shifted.image[np.array([0, 1])].mean(axis=(1, 2, 3)) - [200, 100]).max() < 2
    np.testing.assert_array_equal(shifted.label, labels)
    np.testing.assert_array_equal(shifted.example_id, ids)
    other = published.Tfds(halves, np.array([3, 6]), "imagenet2012", str(tmp_path), crop=False)
    with pytest.raises(UserError, match=r"run.data_dir: imagenet2012_corrupted/.* lacks 1 of 2 test images"):
        other.shifted("glass_blur", 1)


def test_tfds_has_other_names_for_two_types():
    assert published.tfds_names("cifar10", ["fog", "glass_blur", "elastic_transform"], (5,)) == [
        "cifar10_corrupted/fog_5",
        "cifar10_corrupted/frosted_glass_blur_5",
        "cifar10_corrupted/elastic_5",
    ]
    assert published.tfds_names("imagenet2012", ["glass_blur"], (1, 2)) == [
        "imagenet2012_corrupted/glass_blur_1",
        "imagenet2012_corrupted/glass_blur_2",
    ]
