"""Blur: Gaussian, defocus, glass, motion and zoom."""

import numpy as np
from scipy import fft, ndimage

from arada.data.corruptions.pixels import Generators, draws, gaussian, motion_blurred, truncated, zoomed


def gaussian_blur(images: np.ndarray, sigma: float, rngs: Generators) -> np.ndarray:
    """A Gaussian of `sigma` pixels, by scipy.ndimage."""
    return truncated(gaussian(images.astype(float), sigma))


def _disc(radius: float, sigma: float) -> np.ndarray:
    reach = max(8, int(radius))
    along = np.arange(-reach, reach + 1)
    disc = (along**2 + along[:, None] ** 2 <= radius**2).astype(float)
    # The smoothing kernel is 3 x 3, on the larger grid 5 x 5.
    small = ndimage.gaussian_filter(disc, sigma, mode="mirror", radius=1 if radius <= 8 else 2)
    return small / disc.sum()


def defocus_blur(images: np.ndarray, strength: tuple[float, float], rngs: Generators) -> np.ndarray:
    """A disc of (radius, smoothing sigma) pixels, mirrored at the border; convolved by scipy.fft."""
    kernel = _disc(*strength)
    reach = len(kernel) // 2
    padded = np.pad(images.astype(float), ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    sides = padded.shape[1:3]
    spectrum = fft.rfft2(padded, axes=(1, 2)) * fft.rfft2(kernel, sides)[None, :, :, None]
    # What the circular convolution wraps around falls into the first 2 * reach rows and columns.
    return truncated(fft.irfft2(spectrum, sides, axes=(1, 2))[:, 2 * reach :, 2 * reach :])


def glass_blur(images: np.ndarray, strength: tuple[float, int, int], rngs: Generators) -> np.ndarray:
    """Blurred, shuffled among neighbours and blurred again: (sigma, reach in pixels, passes).

    A pass goes from the last row and column to the first and gives each pixel the present value of one within
    -reach .. reach - 1 of it. The paper describes an exchange; its generator only copies, and so did the released sets.
    """
    sigma, reach, passes = strength
    count, height, width, channels = images.shape
    offsets = draws(rngs, lambda rng: rng.integers(-reach, reach, (passes, height * width, 2)))
    place = np.arange(height * width)
    row, column = place // width, place % width
    moves = (row > reach) & (row <= height - reach) & (column > reach) & (column <= width - reach)
    x = truncated(gaussian(images.astype(float), sigma)).reshape(count, height * width, channels)
    for down, right in np.moveaxis(offsets, (1, 3), (0, 1)):
        source = np.where(moves, place + down * width + right, place)
        # Later places have moved before: follow a source among them to its own source, twice as far every time.
        final = source <= place
        while not final.all():
            source, final = (
                np.where(final, source, np.take_along_axis(source, source, axis=1)),
                final | np.take_along_axis(final, source, axis=1),
            )
        x = np.take_along_axis(x, source[..., None], axis=1)
    return truncated(gaussian(x.reshape(images.shape).astype(float), sigma))


def motion_blur(images: np.ndarray, strength: tuple[int, float], rngs: Generators) -> np.ndarray:
    """ImageMagick's motion blur of (radius, sigma) pixels at an angle from U(-45, 45) degrees; rounded."""
    return motion_blurred(images, *strength, draws(rngs, lambda rng: rng.uniform(-45, 45)))


def zoom_blur(images: np.ndarray, strength: tuple[float, float], rngs: Generators) -> np.ndarray:
    """The mean of the image and its enlargements by 1, 1 + step, ... up to (largest, step)."""
    largest, step = strength
    # Rounding lets arange reach `largest` itself at some severities and not at others, as published.
    factors = np.arange(1, largest, step)
    x = images.astype(float)
    return truncated((x + len(factors) * zoomed(x, tuple(factors.tolist()))) / (len(factors) + 1))
