import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_digits

from arada import data
from arada.data import shifts
from arada.data.sources.digits import Digits
from arada.errors import UserError
from configs import digits as config

SCENE = ("blur", "contrast", "rotation", "translation")


@pytest.fixture(scope="module")
def digits():
    return data.build(config.get_config().data, "")


@pytest.fixture(scope="module")
def splits(digits):
    return digits.splits()


@pytest.fixture(scope="module")
def everything(splits):
    """Images and labels of all three splits by id."""
    order = np.argsort(np.concatenate([split.example_id for split in splits.values()]))
    return {
        key: np.concatenate([getattr(split, key) for split in splits.values()])[order]
        for key in ("image", "label", "example_id")
    }


def saturated(images):
    return (images <= 0) | (images >= 1)


def test_every_digit_is_in_one_split(splits, everything):
    assert {name: len(split) for name, split in splits.items()} == {"train": 800, "validation": 500, "test": 497}
    np.testing.assert_array_equal(everything["example_id"], np.arange(1797))
    np.testing.assert_array_equal(everything["label"], load_digits().target)


def test_splits_are_deterministic(digits, splits):
    for name, split in dataclasses.replace(digits).splits().items():
        for field in ("image", "label", "example_id"):
            np.testing.assert_array_equal(getattr(split, field), getattr(splits[name], field))


def test_split_seed_moves_examples_but_not_pixels(digits, everything):
    other = dataclasses.replace(digits, split_seed=1).splits()
    assert not np.array_equal(other["train"].example_id, digits.splits()["train"].example_id)
    for split in other.values():
        np.testing.assert_array_equal(split.image, everything["image"][split.example_id])


@pytest.mark.parametrize(("num_train", "num_validation"), [(1300, 497), (1400, 500), (1797, 0)])
def test_splits_leave_something_to_test(digits, num_train, num_validation):
    with pytest.raises(UserError, match=r"data\.num_train \+ data\.num_validation"):
        dataclasses.replace(digits, num_train=num_train, num_validation=num_validation).splits()


def test_images_are_unit_range_and_seldom_saturate(everything):
    image = everything["image"]
    assert image.dtype == np.float32
    assert image.shape == (1797, 8, 8, 1)
    assert image.min() >= 0
    assert image.max() <= 1
    # One in 750 by the documentation; Carlini-Wagner can hardly move such pixels.
    assert 0.0005 < np.mean(saturated(image)) < 0.005


def test_noise_is_that_of_the_camera(digits, everything):
    signal = load_digits().images[..., None] / 16
    noise = everything["image"] - (0.5 + digits.contrast * (signal - 0.5))
    deviation = digits.noise * digits.contrast
    # 115,008 pixels: four standard errors of the mean. Clipping at 2.9 deviations takes less than 1 % of the deviation.
    assert abs(noise.mean()) < 4 * deviation / np.sqrt(noise.size)
    assert np.std(noise) == pytest.approx(deviation, rel=0.01)
    # No pattern that images share, none that pixels share.
    assert np.abs(noise.mean(axis=0)).max() < 5 * deviation / np.sqrt(len(noise))
    assert np.abs(noise.mean(axis=(1, 2))).max() < 5 * deviation / 8


def test_noise_seed_changes_the_noise_alone(digits, splits):
    other = dataclasses.replace(digits, noise_seed=1).splits()
    for name, split in splits.items():
        np.testing.assert_array_equal(other[name].example_id, split.example_id)
        assert np.mean(other[name].image != split.image) > 0.99


@pytest.mark.parametrize("name", SCENE)
def test_a_shift_of_the_scene_keeps_the_noise(digits, splits, name):
    silent = dataclasses.replace(digits, noise=0.0)
    clean, clean_silent = splits["test"], silent.splits()["test"]
    seen, seen_silent = (d.shifted(d.splits()["test"], name, 4) for d in (digits, silent))
    free = ~(saturated(clean.image) | saturated(seen.image))
    assert free.mean() > 0.99
    # The camera adds in float64 and rounds each of the four images once to float32, below 1.
    np.testing.assert_allclose(
        (seen.image - seen_silent.image)[free], (clean.image - clean_silent.image)[free], rtol=0, atol=2.4e-7
    )


@pytest.mark.parametrize("name", sorted(shifts.STRENGTHS))
def test_every_severity_moves_images_further(digits, splits, name):
    test = splits["test"]
    shifted = [digits.shifted(test, name, severity) for severity in shifts.SEVERITIES]
    moved = [np.mean(np.abs(split.image - test.image)) for split in shifted]
    assert moved[0] > 0.001
    assert np.all(np.diff(moved) > 0)
    for split in shifted:
        assert split.image.dtype == np.float32
        assert split.image.min() >= 0
        assert split.image.max() <= 1
        np.testing.assert_array_equal(split.example_id, test.example_id)
        np.testing.assert_array_equal(split.label, test.label)


def test_shifts_are_deterministic_and_belong_to_ids(digits, splits):
    few = splits["test"].take(np.array([5, 7, 400]))
    for name in shifts.STRENGTHS:
        whole, part = digits.shifted(splits["test"], name, 2), digits.shifted(few, name, 2)
        np.testing.assert_array_equal(part.image, whole.image[[5, 7, 400]])


def test_photographs_have_no_class(digits, splits):
    photographs = digits.out_of_distribution("photographs")
    assert photographs.image.shape == (len(photographs), 8, 8, 1)
    assert photographs.image.dtype == np.float32
    assert photographs.image.min() >= 0
    assert photographs.image.max() <= 1
    assert np.mean(saturated(photographs.image)) < 0.005
    assert 400 < len(photographs) < 600
    np.testing.assert_array_equal(photographs.label, np.full(len(photographs), -1))
    np.testing.assert_array_equal(photographs.example_id, np.arange(len(photographs)))
    # Through the same camera, but with noise of its own.
    silent = dataclasses.replace(digits, noise=0.0)
    noise = photographs.image - silent.out_of_distribution("photographs").image
    assert np.std(noise) == pytest.approx(digits.noise * digits.contrast, rel=0.02)
    first = np.concatenate([split.image for split in digits.splits().values()])
    assert not np.any(np.all(photographs.image[:, None] == first[None, :50], axis=(2, 3, 4)))


def test_other_data_from_elsewhere_are_unknown(digits):
    with pytest.raises(ValueError, match="photographs"):
        digits.out_of_distribution("svhn_cropped")


def test_unknown_source():
    fields = config.get_config().data
    fields.source = "npz"
    with pytest.raises(UserError, match=r"data\.source"):
        data.build(fields, "")


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"num_classes": 9}, r"data\.num_classes is 9.*0\.\.8"), ({"image_shape": (8, 8, 3)}, r"data\.image_shape")],
)
def test_a_config_that_contradicts_the_data_is_refused(digits, fields, named):
    fields_of_data = config.get_config().data
    assert set(data.load_splits(digits, fields_of_data)) == {"train", "validation", "test"}
    fields_of_data.update(fields)
    with pytest.raises(UserError, match=named):
        data.load_splits(digits, fields_of_data)


def test_digits_are_scikit_learns_own():
    silent = Digits(num_train=800, num_validation=500, split_seed=0, noise=0.0, contrast=1.0, noise_seed=0)
    for split in silent.splits().values():
        np.testing.assert_array_equal(split.image[..., 0], load_digits().images[split.example_id] / 16)
