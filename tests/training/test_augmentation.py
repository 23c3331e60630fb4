import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from arada.training import augmentation

KEY = jax.random.key(0)
RANDOM = ["flip", "shift_and_flip", "crop_and_flip"]


def images_of(count, shape=(8, 8, 2)):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


@pytest.fixture(scope="module")
def augment():
    return jax.jit(functools.partial(augmentation.augment, normalize=lambda images: images), static_argnums=0)


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 5, 3)])
@pytest.mark.parametrize("offset", [(0.4, -0.7), (-1.25, 2.5), (0.0, 0.5), (3.0, -2.0), (-20.0, 20.0)])
def test_shift_is_scipys(shape, offset):
    image = images_of(1, shape)[0]
    # SciPy says where content goes, `shift_by` where it comes from.
    expected = ndimage.shift(image.astype(np.float64), (-offset[0], -offset[1], 0), order=1, mode="nearest")
    shifted = jax.jit(augmentation.shift_by)(image, jnp.asarray(offset))
    # Sums of four products of values below 4.
    np.testing.assert_allclose(shifted, expected, rtol=0, atol=2e-6)


def test_whole_shift_by_hand():
    image = jnp.asarray([[1.0, 2, 3], [4, 5, 6]])[..., None]
    np.testing.assert_array_equal(augmentation.shift_by(image, jnp.asarray([0.0, 1.0]))[..., 0], [[2, 3, 3], [5, 6, 6]])
    np.testing.assert_array_equal(
        augmentation.shift_by(image, jnp.asarray([-1.0, 0.0]))[..., 0], [[1, 2, 3], [1, 2, 3]]
    )


def test_half_a_pixel_by_hand():
    image = jnp.asarray([[1.0, 2, 4]])[..., None]
    np.testing.assert_array_equal(augmentation.shift_by(image, jnp.asarray([0.0, 0.5]))[..., 0], [[1.5, 3, 4]])


def test_flip_mirrors_columns_by_hand():
    image = jnp.asarray([[[1.0, 10], [2, 20], [3, 30]], [[4, 40], [5, 50], [6, 60]]])
    mirrored = [[[3.0, 30], [2, 20], [1, 10]], [[6, 60], [5, 50], [4, 40]]]
    flipped = np.asarray(jax.vmap(augmentation.random_flip, in_axes=(0, None))(jax.random.split(KEY, 64), image))
    is_image, is_mirrored = (np.all(flipped == np.asarray(other), axis=(1, 2, 3)) for other in (image, mirrored))
    assert np.all(is_image ^ is_mirrored)
    # Five standard errors of a half.
    assert 12 <= is_mirrored.sum() <= 52


def test_shift_reaches_a_tenth_of_each_side(augment):
    height, width = 20, 40
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1).astype(np.float32)
    shift = jax.jit(jax.vmap(lambda key: augmentation.random_shift(key, grid, 0.1)))
    moved = np.asarray(shift(jax.random.split(KEY, 500)))[:, 10, 20] - (10, 20)
    for by, reach in zip(moved.T, (2, 4), strict=True):
        assert np.abs(by).max() <= reach * (1 + 1e-5)
        # Uniform: mean 0, variance reach^2 / 3, of 500.
        assert abs(by.mean()) < 4 * reach / np.sqrt(3 * 500)
        assert np.std(by) == pytest.approx(reach / np.sqrt(3), rel=0.1)
        assert np.mean(by == np.round(by)) < 0.1
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.2


def test_none_is_identity(augment):
    images = images_of(5)
    np.testing.assert_array_equal(augment("none", KEY, jnp.arange(5), images), images)


@pytest.mark.parametrize("name", RANDOM)
def test_an_example_does_not_see_its_company(augment, name):
    images, example_id = images_of(16), np.arange(100, 116)
    whole = np.asarray(augment(name, KEY, example_id, images))
    order = np.random.default_rng(1).permutation(16)
    np.testing.assert_array_equal(augment(name, KEY, example_id[order], images[order]), whole[order])
    for part in (slice(0, 4), slice(5, 7), slice(15, 16)):
        # By the shape of the batch XLA fuses the normalisation's product and sum, or rounds between them.
        np.testing.assert_allclose(augment(name, KEY, example_id[part], images[part]), whole[part], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", RANDOM)
def test_examples_and_steps_draw_their_own(augment, name):
    images = np.broadcast_to(images_of(1), (64, 8, 8, 2))
    example_id = np.arange(64)
    first, next_step = (
        np.asarray(augment(name, jax.random.fold_in(KEY, step), example_id, images)) for step in range(2)
    )
    # Two mirror images; 50 crops, of which 64 draws find some 36; any shift.
    count = len(np.unique(first, axis=0))
    assert count in {"flip": [2], "crop_and_flip": range(26, 50), "shift_and_flip": [64]}[name]
    changed = np.any(first != next_step, axis=(1, 2, 3))
    assert changed.mean() > {"flip": 0.25, "crop_and_flip": 0.9, "shift_and_flip": 0.99}[name]


def test_crops_are_those_of_the_padded_image(augment):
    image = np.arange(1, 17, dtype=np.float32).reshape(4, 4, 1)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    crops = {(y, x): padded[y : y + 4, x : x + 4] for y in range(5) for x in range(5)}
    crop = jax.jit(jax.vmap(lambda key: augmentation.random_crop(key, image, 2)))
    found = [
        next(at for at, expected in crops.items() if np.array_equal(one, expected))
        for one in np.asarray(crop(jax.random.split(KEY, 400)))
    ]
    # 25 crops, 16 times each on average: all of them, and none more than twice as often.
    assert set(found) == set(crops)
    assert max(map(found.count, crops)) <= 32


def test_what_a_crop_lets_in_is_black_before_normalisation():
    images, ids = np.full((64, 8, 8, 3), 0.5, np.float32), np.arange(64)
    found = augmentation.augment("crop_and_flip", KEY, ids, images, lambda x: (x - 0.5) / 0.25)
    np.testing.assert_array_equal(np.unique(found), [-2, 0])


def test_what_a_shift_lets_in_is_a_normalised_edge():
    images, ids = np.full((64, 8, 8, 3), 0.5, np.float32), np.arange(64)
    ramp = np.arange(8, dtype=np.float32)[None, None, :, None] / 8  # a mean image that differs by column
    found = augmentation.augment("shift_and_flip", KEY, ids, images, lambda x: x - ramp)
    assert np.max(found) <= 0.5
    assert np.min(found) >= 0.5 - 7 / 8
