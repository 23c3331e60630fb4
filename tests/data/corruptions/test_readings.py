"""Every type and severity against a reading in corruption_readings.py beside it, or noise by its statistics."""

import math

import numpy as np
import pytest
from corruption_readings import READINGS, levels, photographs

from arada.data.corruptions import CIFAR10_TYPES, SEVERITIES, corrupt

# Of CIFAR and of ImageNet, severities 1 to 5; written again.
PUBLISHED = {
    "gaussian_blur": ((0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6)),
    "defocus_blur": (
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": (
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": (((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": (
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": (
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": (
        ((1, 0.2, 5), (1, 0.3, 5), (0.9, 0.4, 5), (0.85, 0.4, 5), (0.75, 0.45, 5)),
        ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
    ),
    "fog": (
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "spatter": (
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
    ),
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "saturate": (
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    ),
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
    # Times 32 and times 244.
    "elastic_transform": (
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    ),
}
NOISE = {
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.1), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "speckle_noise": ((0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6)),
    "shot_noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
}


def cases(table):
    return [
        (name, parameters, severity, c)
        for name, of_both in table.items()
        for parameters, of_one in zip(("cifar", "imagenet"), of_both, strict=True)
        for severity, c in zip(SEVERITIES, of_one, strict=True)
    ]


def test_every_type_is_read():
    assert {*PUBLISHED, *NOISE} == set(CIFAR10_TYPES)


@pytest.mark.usefixtures("frost")
@pytest.mark.parametrize(("name", "parameters", "severity", "c"), cases(PUBLISHED))
def test_reading(name, parameters, severity, c):
    image, c = photographs(1)[0], np.atleast_1d(np.array(c, object))
    if name == "elastic_transform":
        c = c * (32 if parameters == "cifar" else 244)
        # ImageNet's displacements would leave nothing of a small image.
        image = image if parameters == "cifar" else photographs(1, 224, 224)[0]
    result = corrupt(image[None], np.array([7]), name, severity, parameters=parameters)[0]
    rng = np.random.default_rng(np.random.SeedSequence((CIFAR10_TYPES.index(name), severity, 7)))
    np.testing.assert_array_equal(result, READINGS[name](image, rng, *c))


@pytest.mark.parametrize(("name", "parameters", "severity", "c"), cases(NOISE))
def test_noise(name, parameters, severity, c):
    # Bright enough and dark enough that not much is clipped; the quantiles of +-1 sigma see no clipping at all.
    count, level = 20, 102
    images = np.full((count, 32, 32, 3), level, np.uint8)
    noisy = corrupt(images, np.arange(count), name, severity, parameters=parameters)
    if name == "impulse_noise":
        error = 4 * math.sqrt(c / noisy.size)
        for value, fraction in ((255, c / 2), (0, c / 2), (level, 1 - c)):
            assert np.mean(noisy == value) == pytest.approx(fraction, abs=error)
        return
    x = level / 255
    if name == "shot_noise":
        rng = np.random.default_rng(0)
        expected = levels(rng.poisson(x * c, noisy.size) / c)
        assert np.mean(noisy) == pytest.approx(np.mean(expected), abs=1)
        assert np.std(noisy) == pytest.approx(np.std(expected), rel=0.03)
        return
    sigma = c if name == "gaussian_noise" else c * x
    low, high = np.quantile(noisy, (0.1587, 0.8413))
    assert (high - low) / 2 == pytest.approx(255 * sigma, abs=1.5)
    assert (high + low) / 2 == pytest.approx(level - 0.5, abs=1.5)
    # Every value has its own noise.
    channels = np.corrcoef(noisy.reshape(-1, 3).T)
    np.testing.assert_allclose(channels, np.eye(3), atol=0.03)
