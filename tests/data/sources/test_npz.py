import zipfile

import numpy as np
import pytest

from arada import data
from arada.errors import UserError
from configs import own_images

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (9, 4, 4, 3), np.uint8)
LABEL = np.arange(9) % 3


class Unpickled:
    """Fails the test that lets it be unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def splits_of(path, **fields):
    config = own_images.get_config().data
    config.update({"source": "npz", "num_classes": 3, "image_shape": (4, 4, 3)})
    config.update({"num_train": 5, "num_validation": 2, "num_test": 2} | fields)
    return data.load_splits(data.build(config, str(path)), config)


def write(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_one_part_is_divided(tmp_path):
    splits = splits_of(write(tmp_path / "a.npz", image=IMAGE, label=LABEL.astype(np.uint8), names=np.array(["x"])))
    assert sorted(np.concatenate([split.example_id for split in splits.values()])) == list(range(9))
    for split in splits.values():
        assert (split.image.dtype, split.label.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(split.image, IMAGE[split.example_id])
        np.testing.assert_array_equal(split.label, LABEL[split.example_id])


def test_nobody_published_them_shifted(tmp_path):
    config = own_images.get_config().data
    config.source = "npz"
    dataset = data.build(config, str(write(tmp_path / "a.npz", image=IMAGE, label=LABEL)))
    with pytest.raises(UserError, match=r"evaluation.shift_source: .*a.npz has no test_position"):
        dataset.published_position(None)
    assert dataset.class_names() == []


def test_two_parts_and_grey_floats(tmp_path):
    grey = IMAGE[..., 0] / 255
    arrays = {"train_image": grey[:7], "train_label": LABEL[:7], "test_image": grey[7:], "test_label": LABEL[7:]}
    splits = splits_of(write(tmp_path / "a.npz", **arrays), image_shape=(4, 4, 1))
    np.testing.assert_array_equal(splits["test"].example_id, [0, 1])
    np.testing.assert_array_equal(splits["test"].image[..., 0], grey[7:].astype(np.float32))
    assert len(splits["train"]) + len(splits["validation"]) == 7
    assert splits["train"].image.dtype == np.float32


def test_shifted_floats_are_as_shifted_bytes(tmp_path):
    config = own_images.get_config().data
    config.update({"source": "npz", "image_shape": (4, 4, 3), "num_train": 5, "num_validation": 2, "num_test": 2})
    shifted = []
    for name, image in (("bytes", IMAGE), ("floats", (IMAGE / 255).astype(np.float32))):
        dataset = data.build(config, str(write(tmp_path / f"{name}.npz", image=image, label=LABEL)))
        shifted.append(dataset.shifted(dataset.splits()["test"], "rotation", 3).image)
    np.testing.assert_allclose(*shifted, atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGE, "label": LABEL}, r"a.npz holds images, label; it needs image and label, or train_image"),
        ({"train_image": IMAGE, "train_label": LABEL}, r"holds train_image, train_label; it needs"),
        ({"image": np.array([Unpickled()] * 9), "label": LABEL}, r"cannot be read as npz \(Object arrays cannot"),
        (
            {"image": IMAGE.astype(np.int32), "label": LABEL},
            r"train images are int32 \[9, 4, 4, 3\]; they must be uint8",
        ),
        ({"image": IMAGE[:, 0, 0], "label": LABEL}, r"train images are uint8 \[9, 3\]"),
        ({"image": IMAGE.astype(np.float32), "label": LABEL}, r"images range from 0.0 to 255.0; floats must be in"),
        ({"image": np.full(IMAGE.shape, np.nan), "label": LABEL}, r"images range from nan to nan"),
        ({"image": IMAGE, "label": LABEL / 2}, r"labels are float64 \[9\]; they must be whole numbers"),
        ({"image": IMAGE, "label": LABEL.astype(np.uint64) + 2**32}, r"labels are uint64 \[9\]; .* below 2\^31"),
        ({"image": IMAGE, "label": np.eye(3)[LABEL].astype(int)}, r"labels are int64 \[9, 3\]"),
        ({"image": IMAGE, "label": LABEL[:8]}, r"images are 9, but its labels 8"),
        ({"image": IMAGE, "label": LABEL + 1}, r"data.num_classes is 3, but labels of the .* range from . to 3"),
        ({"image": IMAGE[:, :3], "label": LABEL}, r"data.image_shape is \(4, 4, 3\), but train images are \(3, 4, 3\)"),
        ({"image": IMAGE[:8], "label": LABEL[:8]}, r"data.num_test is 9, but run.data_dir=.*a.npz has 8 train images"),
    ],
)
def test_arrays_that_are_wrong(tmp_path, arrays, message):
    path = write(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message):
        splits_of(path)


def test_no_part_of_a_file_is_read(tmp_path):
    content = write(tmp_path / "a.npz", image=IMAGE, label=LABEL).read_bytes()
    for size in range(0, len(content), 23):
        (tmp_path / "part.npz").write_bytes(content[:size])
        with pytest.raises(UserError, match=r"part.npz cannot be read as npz \(.+\); write it again"):
            splits_of(tmp_path / "part.npz")


def test_a_member_that_is_no_array_is_reported(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("image.npy", b"pixels")
        archive.writestr("label.npy", b"classes")
    with pytest.raises(UserError, match=r"train labels are \|S7 \[\]; they must be whole numbers"):
        splits_of(tmp_path / "a.npz")


def test_changed_bytes_are_noticed(tmp_path):
    content = bytearray(write(tmp_path / "a.npz", image=IMAGE, label=LABEL).read_bytes())
    content[len(content) // 3] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a.npz cannot be read as npz"):
        splits_of(tmp_path / "a.npz")


def test_another_format_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", IMAGE)
    with pytest.raises(UserError, match=r"a.npy cannot be read as npz \(File is not a zip file\)"):
        splits_of(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("label", "way_out"),
    [
        (LABEL.astype(float), r"labels are float64 \[9\].*Save them as label.astype\('int32'\)"),
        (LABEL[:, None], r"labels are int64 \[9, 1\].*Save them as label.ravel\(\).astype\('int32'\)"),
    ],
)
def test_labels_of_another_form_are_shown_the_way(tmp_path, label, way_out):
    with pytest.raises(UserError, match=way_out):
        splits_of(write(tmp_path / "a.npz", image=IMAGE, label=label))
