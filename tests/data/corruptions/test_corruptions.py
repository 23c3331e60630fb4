import numpy as np
import pytest
from corruption_readings import photographs

from arada.data import corruptions
from arada.data.corruptions import CIFAR10_TYPES, CIFAR100_TYPES, IMAGENET_TYPES, SEVERITIES, corrupt, folder
from arada.errors import UserError

EVERY = [(name, severity) for name in CIFAR10_TYPES for severity in SEVERITIES]
BLURS = [name for name in CIFAR10_TYPES if name.endswith("_blur")]
# The others draw no random numbers.
RANDOM = [name for name in CIFAR10_TYPES if name.endswith("_noise")]
RANDOM += ["glass_blur", "motion_blur", "snow", "frost", "fog", "spatter", "elastic_transform"]
SIZE = 24


def test_the_lists_of_the_paper():
    assert (len(CIFAR10_TYPES), len(CIFAR100_TYPES), len(IMAGENET_TYPES)) == (19, 17, 15)
    assert set(CIFAR10_TYPES) - set(CIFAR100_TYPES) == {"motion_blur", "snow"}
    assert set(CIFAR10_TYPES) - set(IMAGENET_TYPES) == {"speckle_noise", "gaussian_blur", "spatter", "saturate"}


@pytest.mark.parametrize(("name", "severity"), EVERY)
def test_an_example_is_on_its_own(name, severity, frost, monkeypatch):
    images, ids = photographs(5, 20, 26), np.array([3, -1, 2**31 - 1, 0, 4], np.int32)
    before = images.copy()
    together = corrupt(images, ids, name, severity)
    assert together.dtype == np.uint8
    assert together.shape == images.shape
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(corrupt(images[::-1], ids[::-1], name, severity)[::-1], together)
    np.testing.assert_array_equal(corrupt(images[1:2], ids[1:2], name, severity), together[1:2])
    monkeypatch.setattr(corruptions, "_CHUNK_PIXELS", 2 * 20 * 26)
    np.testing.assert_array_equal(corrupt(images, ids, name, severity), together)
    assert np.mean(together != images) > 0.005


@pytest.mark.parametrize("name", RANDOM)
def test_examples_have_random_numbers_of_their_own(name, frost):
    images = np.repeat(photographs(1), 2, axis=0)
    first, second = corrupt(images, np.array([0, 1]), name, 3)
    assert np.mean(first != second) > 0.01


@pytest.mark.parametrize("parameters", ["cifar", "imagenet"])
@pytest.mark.parametrize(
    "name",
    [
        *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "gaussian_blur", "defocus_blur"),
        *("zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
    ],
)
def test_more_severe_is_further_away(name, parameters):
    # The others have several parameters, which do not all grow.
    images = photographs(20, 48, 48)
    results = [corrupt(images, np.arange(20), name, severity, parameters=parameters) for severity in SEVERITIES]
    distance = [np.mean((result.astype(float) - images) ** 2) for result in results]
    assert all(np.diff([0, *distance]) > 0)


@pytest.mark.parametrize("name", [*BLURS, "contrast", "pixelate", "elastic_transform", "jpeg_compression"])
@pytest.mark.parametrize("grey", [0, 100, 255])
def test_a_constant_image_stays(name, grey):
    images = np.full((2, SIZE, SIZE, 3), grey, np.uint8)
    for severity in SEVERITIES:
        result = corrupt(images, np.arange(2), name, severity)
        # JPEG stores a block's mean in steps of a level or more.
        np.testing.assert_allclose(result.astype(int), images, rtol=0, atol=2 * (name == "jpeg_compression"))


def test_fog_and_snow_of_black_by_hand():
    # Fog keeps the brightest value, here 0. Snow adds at least (1 - mix) * 0.5: 0.05 * 0.5 * 255 = 6.4.
    black = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    assert corrupt(black, np.arange(2), "fog", 5).max() == 0
    assert corrupt(black, np.arange(2), "snow", 1).min() == 6


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "snow", "fog", "brightness", "contrast"])
def test_grey_stays_grey(name):
    images = np.repeat(photographs(2)[..., :1], 3, axis=-1)
    for severity in SEVERITIES:
        result = corrupt(images, np.arange(2), name, severity)
        assert np.ptp(result, axis=-1).max() == 0


def test_no_images():
    assert corrupt(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int32), "fog", 1).shape == (0, 8, 8, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "frosted_glass_blur"}, "corruption must be one of gaussian_noise, .*not 'frosted_glass_blur'"),
        ({"severity": 0}, "severity must be 1, 2, 3, 4 or 5, not 0"),
        ({"parameters": "tiny"}, "parameters must be 'cifar' or 'imagenet', not 'tiny'"),
        ({"images": np.zeros((1, 8, 8, 3))}, "images must be uint8 .*, not float64"),
        ({"images": np.zeros((1, 8, 8, 1), np.uint8)}, r"images must be uint8 .*, not uint8 \[1, 8, 8, 1\]"),
        ({"example_id": np.arange(2)}, r"example_id must be one number per image, \[1\], not \[2\]"),
    ],
)
def test_mistakes(change, message):
    call = {"images": np.zeros((1, 8, 8, 3), np.uint8), "example_id": np.arange(1), "name": "fog", "severity": 1}
    with pytest.raises(UserError, match=message):
        corrupt(**{**call, **change})


@pytest.mark.usefixtures("no_frost")
def test_frost_names_the_package_it_lacks():
    with pytest.raises(UserError, match="pip install --no-deps imagecorruptions"):
        corrupt(photographs(1), np.arange(1), "frost", 1)


TYPES = ("contrast", "gaussian_noise")


def test_the_published_layout(tmp_path):
    images, labels = photographs(3), np.array([2, 9, 0])
    assert folder.write(tmp_path, images, labels, types=TYPES) == ()
    assert {path.name for path in tmp_path.iterdir()} == {"source.json", "labels.npy", *(f"{t}.npy" for t in TYPES)}
    stored = np.load(tmp_path / "labels.npy")
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, [2, 9, 0] * 5)
    for name in TYPES:
        stored = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
        assert stored.shape == (15, SIZE, SIZE, 3)
        for severity in SEVERITIES:
            expected = corrupt(images, np.arange(3), name, severity)
            np.testing.assert_array_equal(stored[3 * severity - 3 : 3 * severity], expected)


def test_only_what_is_missing_is_written(tmp_path):
    images, labels = photographs(3), np.arange(3)
    folder.write(tmp_path, images, labels, types=TYPES)
    contrast, noise = tmp_path / "contrast.npy", tmp_path / "gaussian_noise.npy"
    before = noise.read_bytes()
    noise.unlink()
    # As if killed on the way: half a file under its second name, which is each process's own.
    (tmp_path / "gaussian_noise.npy.0.new").write_bytes(before[:100])
    contrast.write_bytes(b"not touched")
    folder.write(tmp_path, images, labels, types=TYPES)
    assert noise.read_bytes() == before
    assert contrast.read_bytes() == b"not touched"


def test_processes_write_the_same(tmp_path, monkeypatch):
    images = photographs(5)
    folder.write(tmp_path / "one", images, np.arange(5), types=TYPES, parameters="imagenet")
    monkeypatch.setattr(folder, "_CHUNK", 2)
    folder.write(tmp_path / "two", images, np.arange(5), types=TYPES, parameters="imagenet", workers=2)
    for name in TYPES:
        assert (tmp_path / "one" / f"{name}.npy").read_bytes() == (tmp_path / "two" / f"{name}.npy").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"images": photographs(2, seed=1)},
        {"labels": np.array([1, 0])},
        {"parameters": "imagenet"},
        {"example_id": np.array([1, 0])},
    ],
)
def test_a_folder_of_other_images_stays_as_it_is(change, tmp_path):
    call = {"images": photographs(2), "labels": np.arange(2), "types": ("contrast",)}
    folder.write(tmp_path, **call)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="choose another folder"):
        folder.write(tmp_path, **{**call, **change})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_mistakes_in_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"types must be among .*, not 'elastic'"):
        folder.write(tmp_path / "new", photographs(2), np.arange(2), types=("fog", "elastic"))
    with pytest.raises(UserError, match="parameters must be"):
        folder.write(tmp_path / "new", photographs(2), np.arange(2), types=("fog",), parameters="tiny")
    with pytest.raises(UserError, match="there are 3 for 2 images"):
        folder.write(tmp_path / "new", photographs(2), np.arange(3))
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("no_frost")
def test_a_folder_without_frost_says_so(tmp_path, caplog):
    assert folder.write(tmp_path, photographs(2), np.arange(2), types=("frost", "contrast")) == ("frost",)
    assert "pip install --no-deps imagecorruptions" in caplog.text
    assert (tmp_path / "contrast.npy").exists()
    assert not (tmp_path / "frost.npy").exists()
