import numpy as np
import pytest

from arada.data import shifts

SENSOR = ("noise", "impulse")
SCENE = ("blur", "contrast", "rotation", "translation")
EVERY = [(name, severity) for name in (*SCENE, *SENSOR) for severity in shifts.SEVERITIES]
SIZE = 33
CENTRE = SIZE // 2


def by_severity(*values):
    return list(zip(shifts.SEVERITIES, values, strict=True))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def coordinates(count):
    """Images whose two channels are the row and the column of each pixel."""
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"), axis=-1)
    return np.repeat(grid[None].astype(np.float64), count, axis=0)


@pytest.mark.parametrize(("name", "severity"), EVERY)
def test_a_shift_happens_in_scene_or_sensor(name, severity, rng):
    images = np.random.default_rng(1).uniform(0.1, 0.9, (3, 9, 9, 2)).astype(np.float32)
    in_scene = shifts.in_scene(images, name, severity, rng)
    in_sensor = shifts.in_sensor(images, name, severity, rng)
    changed, unchanged = (in_scene, in_sensor) if name in SCENE else (in_sensor, in_scene)
    np.testing.assert_array_equal(unchanged, images)
    for before, after in zip(images, changed, strict=True):
        assert np.mean(before != after) > 0.01


@pytest.mark.parametrize(("name", "severity"), EVERY)
def test_same_seed_same_images(name, severity):
    images = np.random.default_rng(1).uniform(size=(3, 9, 9, 2)).astype(np.float32)
    for shift in (shifts.in_scene, shifts.in_sensor):
        first, again = (shift(images, name, severity, np.random.default_rng(7)) for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert first.shape == images.shape


@pytest.mark.parametrize(("severity", "left"), by_severity(0.8, 0.65, 0.5, 0.4, 0.3))
def test_contrast_by_hand(severity, left, rng):
    # Of means 0.5 and 0.2, one a channel.
    image = np.array([[[0.25, 0.0], [0.75, 0.4]]])[None]
    expected = [[[0.5 - 0.25 * left, 0.2 - 0.2 * left], [0.5 + 0.25 * left, 0.2 + 0.2 * left]]]
    np.testing.assert_allclose(shifts.in_scene(image, "contrast", severity, rng)[0], expected, rtol=1e-12)


@pytest.mark.parametrize(("severity", "fraction"), by_severity(0.05, 0.075, 0.1, 0.125, 0.15))
def test_blur_spreads_a_point_by_a_fraction_of_the_width(severity, fraction, rng):
    images = np.zeros((2, SIZE, SIZE, 2))
    images[0, CENTRE, CENTRE, 1] = 1
    blurred = shifts.in_scene(images, "blur", severity, rng)
    # Neither the other image nor the other channel.
    assert np.all(blurred[1] == 0)
    assert np.all(blurred[0, :, :, 0] == 0)
    point = blurred[0, :, :, 1]
    distance = np.arange(SIZE) - CENTRE
    assert point.sum() == pytest.approx(1, rel=0.002)  # only tails beyond 3.3 deviations are outside
    for axis in (0, 1):
        variance = np.sum(point.sum(axis=axis) * distance**2)
        # SciPy's kernel ends at four deviations.
        assert np.sqrt(variance) == pytest.approx(fraction * SIZE, rel=0.02)


@pytest.mark.parametrize(("severity", "degrees"), by_severity(10, 20, 30, 40, 50))
def test_rotation_turns_either_way_about_the_centre(severity, degrees, rng):
    turned = shifts.in_scene(coordinates(16), "rotation", severity, rng)
    assert turned[:, CENTRE, CENTRE] == pytest.approx(CENTRE)
    # Where the pixel eight to the right of the centre comes from.
    row, column = np.moveaxis(turned[:, CENTRE, CENTRE + 8] - CENTRE, -1, 0)
    np.testing.assert_allclose(np.hypot(row, column), 8, rtol=1e-9)
    angle = np.rad2deg(np.arctan2(row, column))
    np.testing.assert_allclose(np.abs(angle), degrees, rtol=1e-9)
    assert set(np.sign(angle)) == {-1, 1}


@pytest.mark.parametrize(("severity", "fraction"), by_severity(0.05, 0.1, 0.15, 0.2, 0.25))
def test_translation_goes_so_far_in_any_direction(severity, fraction, rng):
    moved = shifts.in_scene(coordinates(64), "translation", severity, rng)
    row, column = np.moveaxis(moved[:, CENTRE, CENTRE] - CENTRE, -1, 0)
    np.testing.assert_allclose(np.hypot(row, column), fraction * SIZE, rtol=1e-9)
    quadrants = set(zip(np.sign(row), np.sign(column), strict=True))
    assert quadrants == {(-1, -1), (-1, 1), (1, -1), (1, 1)}


@pytest.mark.parametrize("signal_range", [1.0, 0.3])
@pytest.mark.parametrize(("severity", "sigma"), by_severity(0.1, 0.2, 0.3, 0.4, 0.5))
def test_noise_has_the_strength_of_its_severity(severity, sigma, signal_range, rng):
    seen = shifts.in_sensor(np.full((100, 10, 10, 1), 0.5), "noise", severity, rng, signal_range=signal_range)
    # Clipped at black and white; the quartiles of a normal distribution are at 0.6745 deviations. 10,000 pixels.
    low, middle, high = np.quantile(seen, (0.25, 0.5, 0.75))
    assert middle == pytest.approx(0.5, abs=0.05 * sigma * signal_range)
    assert (high - low) / (2 * 0.6745) == pytest.approx(sigma * signal_range, rel=0.05)
    assert len(np.unique(seen[0])) > 10


@pytest.mark.parametrize(("severity", "fraction"), by_severity(0.03, 0.06, 0.1, 0.15, 0.2))
def test_impulse_hits_a_fraction_of_pixels(severity, fraction, rng):
    seen = shifts.in_sensor(np.full((100, 10, 10, 1), 0.5), "impulse", severity, rng)
    black, white, kept = (np.mean(seen == value) for value in (0, 1, 0.5))
    assert black + white + kept == pytest.approx(1)
    # Four standard errors of a share of 10,000 pixels.
    for share, expected in ((black, fraction / 2), (white, fraction / 2), (kept, 1 - fraction)):
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 10_000)


def test_what_leaves_the_sensor_is_unit_range(rng):
    images = rng.uniform(-1, 2, (4, 8, 8, 3))
    for name in shifts.STRENGTHS:
        seen = shifts.in_sensor(images, name, 5, rng)
        assert seen.dtype == np.float32
        assert seen.min() == 0
        assert seen.max() == 1
