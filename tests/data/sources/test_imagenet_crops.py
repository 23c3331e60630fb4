"""The crops and resizes of ImageNet, by hand and against the recipes that they follow."""

import io

import numpy as np
import pytest
from jpegs import as_in_tf1, by_hand, encoded, gradient, in_table, keys
from PIL import Image

from arada.data.sources import imagenet, tfds
from arada.data.sources.resize import resized


def decoded(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def as_in_tf2(side, size):
    """Weights [size, side] with half-pixel centres and a = -1/2; what lies outside counts for nothing."""
    weights = np.zeros((size, side))
    for i in range(size):
        centre = (i + 0.5) * side / size - 0.5
        first = int(np.floor(centre))
        offset = in_table(centre - first)
        for tap in (-1, 0, 1, 2):
            if 0 <= first + tap < side:
                weights[i, first + tap] = keys(tap - offset, -0.5)
    return weights / weights.sum(axis=1, keepdims=True)


WEIGHTS = {"tf1_bicubic": as_in_tf1, "tf2_bicubic": as_in_tf2}


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 81), (101, 64), (37, 41), (2, 9)])
@pytest.mark.parametrize("resize", WEIGHTS)
def test_the_evaluation_crop_is_the_recipe(height, width, resize):
    noise = np.random.default_rng(0).integers(0, 80, (height, width, 3), np.uint8)
    jpeg = encoded(gradient(height, width) // 2 + noise)
    found, expected = imagenet.plain_crop(jpeg, 24, resize).numpy(), by_hand(jpeg, 24, WEIGHTS[resize])
    # Half a grey level falls to either side.
    np.testing.assert_allclose(found.astype(int), expected, atol=1)
    assert np.mean(found != expected) < 0.01


def test_the_two_resizes_differ_by_half_a_pixel():
    # Twice as large: TF1 keeps every pixel where it is and puts one between it and the next.
    image = np.repeat(np.array([[0, 0, 64, 128, 192, 192, 192, 192]], np.uint8)[..., None], 8, axis=0)
    tf1, tf2 = (resized(image, (16, 16), how).numpy()[0, :, 0] for how in ("tf1_bicubic", "tf2_bicubic"))
    np.testing.assert_array_equal(tf1[::2], image[0, :, 0])
    # Between 64 and 128: (19 * (64 + 128) - 3 * (0 + 192)) / 32.
    assert tf1[5] == 96
    # Between 0 and 64, beside 0 and 128: (19 * 64 - 3 * 128) / 32.
    assert tf1[3] == 26
    # TF2's lie a quarter of a pixel before and behind.
    assert tf2[4] < tf1[4] < tf2[5]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 81), (101, 64), (37, 41), (24, 90)])
def test_the_crop_of_pretrained_weights_is_torchvision_s(height, width):
    """Resize(28) and CenterCrop(24) of a PIL image, which smooths by itself."""
    jpeg = encoded(gradient(height, width))
    found = imagenet.plain_crop(jpeg, 24, "bilinear", 28).numpy()
    pixels = tfds.import_tensorflow().image.decode_jpeg(jpeg, channels=3).numpy()
    short = min(height, width)
    shape = (28 * width // short, 28 * height // short)
    resized = np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.BILINEAR))
    top, left = (round((side - 24) / 2) for side in resized.shape[:2])
    # Pillow rounds twice, once each way.
    np.testing.assert_allclose(found.astype(int), resized[top : top + 24, left : left + 24].astype(int), atol=1)


def crop_by_hand(pixels, jpeg, seed):
    """Where the crop of `train_crop` lies: (top, left, height, width, mirrored), found by the gradient's own values.

    Red grows by rows and green by columns, so the corners of a crop tell where they come from.
    """
    tf = tfds.import_tensorflow()
    height, width = pixels.shape[:2]
    image = imagenet.train_crop(jpeg, tf.constant(seed, tf.int64), 32, "tf1_bicubic").numpy().astype(float)
    rows, columns = image[:, :, 0].mean(axis=1) * height / 255, image[:, :, 1].mean(axis=0) * width / 255
    mirrored = columns[0] > columns[-1]
    columns = columns[::-1] if mirrored else columns
    # Away from the edge a bicubic resize of a ramp is a ramp, and TF1's first pixel is the crop's: the 32 reach from 0
    # to 31/32 of it.
    across = [(values[-4] - values[3]) / 25 * 32 for values in (rows, columns)]
    return rows.mean() - 31 / 64 * across[0], columns.mean() - 31 / 64 * across[1], *across, mirrored


def test_training_crops_follow_the_recipe():
    pixels = gradient(240, 160)
    jpeg = encoded(pixels)
    crops = np.array([crop_by_hand(pixels, jpeg, (seed, 0)) for seed in range(200)])
    top, left, height, width, mirrored = crops.T
    area, aspect = height * width / (240 * 160), width / height
    assert 0.07 < area.min() < 0.14
    assert 0.7 < area.max() <= 1.02
    assert 0.73 < aspect.min() < 0.8
    assert 1.25 < aspect.max() < 1.37
    # Everywhere in the image, and never outside; JPEG and rounding leave three pixels in doubt.
    for start, extent, size in ((top, height, 240), (left, width, 160)):
        assert -3 < start.min() < 5
        assert size - 10 < (start + extent).max() < size + 3
    assert 0.35 < mirrored.mean() < 0.65
    assert np.corrcoef(mirrored, left + width / 2)[0, 1] == pytest.approx(0, abs=0.2)
    again = np.array([crop_by_hand(pixels, jpeg, (seed, 0)) for seed in range(3)])
    np.testing.assert_array_equal(again, crops[:3])


def test_an_image_without_such_a_crop_gives_its_centre():
    """A strip of 4 x 400: a box of aspect 3/4 to 4/3 and 8 % of its area is higher than it is."""
    tf = tfds.import_tensorflow()
    jpeg = encoded(gradient(4, 400))
    centre = imagenet.plain_crop(jpeg, 8, "tf1_bicubic").numpy()
    found = [imagenet.train_crop(jpeg, tf.constant((0, key), tf.int64), 8, "tf1_bicubic").numpy() for key in range(8)]
    mirrored = [not np.array_equal(image, centre) for image in found]
    for image, is_mirrored in zip(found, mirrored, strict=True):
        np.testing.assert_array_equal(image, centre[:, ::-1] if is_mirrored else centre)
    assert 0 < sum(mirrored) < 8


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_grey_and_cmyk_images_become_rgb(mode):
    jpeg = encoded(gradient(64, 64), mode)
    expected = decoded(jpeg)[4:60, 4:60]
    found = imagenet.plain_crop(jpeg, 56, "tf1_bicubic").numpy()  # as large as the crop: nothing is resized
    assert found.shape == (56, 56, 3)
    np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=6)
