import io

import numpy as np
import pytest
from etils import epath
from PIL import Image

from arada.data.shifted.imagenet_c import JpegImages, Tree, decode, position_of
from arada.data.splits import Split
from arada.errors import UserError

# The files of two classes, by number; 2, 3 and 5 are the test split, which has them in another order.
FILES = {"n01440764": (2, 4), "n02119789": (1, 3, 5)}
POSITION = np.array([4, 1, 2])
GREYS = {number: 40 * number for number in range(1, 6)}


def jpeg(grey, size=224):
    content = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), grey, np.uint8)).save(content, "JPEG", quality=85)
    return content.getvalue()


def name_of(number):
    return f"ILSVRC2012_val_{number:08}.JPEG"


@pytest.fixture(params=["weather/fog", "fog"])
def directory(request, tmp_path):
    """Fog at severities 1 and 2, brighter at the second, in a group's folder and without it."""
    for severity in (1, 2):
        for wnid, numbers in FILES.items():
            folder = tmp_path / request.param / str(severity) / wnid
            folder.mkdir(parents=True)
            for number in numbers:
                (folder / name_of(number)).write_bytes(jpeg(GREYS[number] + 10 * (severity - 1)))
    return tmp_path


@pytest.fixture
def test():
    return Split(np.zeros((3, 1), np.uint8), np.array([1, 0, 1], np.int32), np.array([0, 3, 4], np.int32))


def tree(directory, test, position=POSITION, num_classes=2):
    return Tree(test, position, epath.Path(directory), num_classes)


def fog_of(directory):
    return next(iter(directory.rglob("fog")))


def test_a_shifted_image_is_that_of_the_same_file_number(directory, test):
    source = tree(directory, test)
    assert source.absent(["fog", "snow"], [1, 2]) == {"snow": f"{directory} has no folder snow"}
    for severity in (1, 2):
        shifted = source.shifted("fog", severity)
        assert shifted.image.shape == (3, 224, 224, 3)
        # Two batches, the second padded.
        batches = list(shifted.in_order(2))
        images = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
        assert images.dtype == np.uint8
        greys = np.array([GREYS[at + 1] for at in POSITION]) + 10 * (severity - 1)
        assert np.abs(images - greys[:, None, None, None].astype(int)).max() <= 2
        np.testing.assert_array_equal(shifted.example_id, test.example_id)
        np.testing.assert_array_equal(shifted.label, test.label)


def test_ids_of_tfds_are_joined_by_file_name(directory, test):
    # As TFDS has the validation set: shuffled, each with its file's name; the test split is 0, 3 and 4 of these.
    shuffled = [name_of(number) for number in (5, 4, 1, 2, 3)]
    position = np.array([position_of(shuffled[example_id]) for example_id in test.example_id])
    np.testing.assert_array_equal(position, POSITION)
    image = tree(directory, test, position).shifted("fog", 1).image[np.array([1])]
    assert abs(int(image.mean()) - GREYS[2]) <= 2


@pytest.mark.parametrize(
    "name", ["ILSVRC2012_val_00000007.JPEG", "ILSVRC2012_val_00000007", "a/ILSVRC2012_val_00000007.png"]
)
def test_position_of(name):
    assert position_of(name) == 6


@pytest.mark.parametrize("name", ["n01440764_18.JPEG", "ILSVRC2012_val_7.JPEG", "ILSVRC2012_val_00000000.JPEG"])
def test_names_of_other_images(name):
    with pytest.raises(UserError, match="not an image of ImageNet's validation set"):
        position_of(name)


def test_a_missing_severity_is_an_error(directory, test):
    with pytest.raises(
        UserError, match=r"run.published_dir: .*fog/3 is missing, but other severities are there; unpack fog"
    ):
        tree(directory, test).absent(["fog"], [1, 3])


def test_a_missing_class_is_an_error(directory, test):
    with pytest.raises(UserError, match=r"fog/1 has 2 classes, but data.num_classes is 1000"):
        tree(directory, test, num_classes=1000).absent(["fog"], [1])


def test_a_missing_image_is_an_error(directory, test):
    (fog_of(directory) / "1" / "n02119789" / name_of(5)).unlink()
    with pytest.raises(UserError, match=r"fog/1 lacks 1 of 3 test images, such as ILSVRC2012_val_00000005.JPEG"):
        tree(directory, test).absent(["fog"], [1])


def test_images_of_other_classes_are_an_error(directory, test):
    with pytest.raises(UserError, match=r"fog/1: 2 of 3 labels differ from the test labels"):
        tree(directory, test, np.array([1, 4, 2])).absent(["fog"], [1])


def test_a_truncated_jpeg_is_named(directory, test):
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "JPEG")
    path = fog_of(directory) / "2" / "n01440764" / name_of(2)
    path.write_bytes(content.getvalue()[:2000])
    shifted = tree(directory, test).shifted("fog", 2)
    with pytest.raises(
        UserError, match=r"ILSVRC2012_val_00000002.JPEG cannot be decoded \(.*truncated.*unpack it again"
    ):
        next(shifted.in_order(3))


def test_a_folder_of_something_else(tmp_path, test):
    (tmp_path / "notes").mkdir()
    with pytest.raises(UserError, match="neither npy files nor folders <type>/<severity>"):
        tree(tmp_path, test).absent(["fog"], [1])


@pytest.mark.parametrize(("content", "message"), [(b"", "cannot be decoded"), (jpeg(0, 196), "has 196 x 196 pixels")])
def test_what_is_no_image_of_the_benchmark(content, message):
    with pytest.raises(UserError, match=rf"a/b.JPEG {message}"):
        decode(content, "a/b.JPEG")


def test_the_second_crop_is_edward2_s():
    tensorflow = pytest.importorskip("tensorflow")
    smooth = np.add.outer(np.sin(np.arange(224) / 9), np.cos(np.arange(224) / 7))
    content = io.BytesIO()
    Image.fromarray((60 * smooth + 127).astype(np.uint8)).convert("RGB").save(content, "JPEG", quality=95)
    plain, cropped = (decode(content.getvalue(), "image", crop) for crop in (False, True))
    # 224 / (224 + 32) of 224 pixels, the middle ones.
    middle = tensorflow.compat.v1.image.resize_bicubic(plain[None, 14:210, 14:210], (224, 224))[0].numpy()
    assert cropped.shape == plain.shape
    assert np.abs(cropped - middle).max() <= 0.5
    assert np.abs(cropped.astype(int) - plain).max() > 20
    assert np.array_equal(JpegImages([content.getvalue()], crop=True)[np.array([0])][0], cropped)
