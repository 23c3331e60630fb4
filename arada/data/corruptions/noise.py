"""Noise: Gaussian, shot, impulse and speckle. The random numbers are NumPy's."""

import numpy as np

from arada.data.corruptions.pixels import Generators, draws, truncated


def gaussian_noise(images: np.ndarray, sigma: float, rngs: Generators) -> np.ndarray:
    """x + sigma * N(0, 1), sigma as a fraction of white."""
    return truncated(images + 255 * sigma * draws(rngs, lambda rng: rng.standard_normal(images.shape[1:])))


def shot_noise(images: np.ndarray, photons: float, rngs: Generators) -> np.ndarray:
    """Poisson(x * photons) / photons, photons at white."""
    counts = [rng.poisson(image * (photons / 255)) for image, rng in zip(images, rngs, strict=True)]
    return truncated(np.stack(counts) * (255 / photons))


def impulse_noise(images: np.ndarray, amount: float, rngs: Generators) -> np.ndarray:
    """A fraction `amount` of all values, each channel on its own, becomes black or white with even chances."""
    chance = draws(rngs, lambda rng: rng.random(images.shape[1:]))
    return np.where(chance < amount, np.where(chance < amount / 2, 255, 0), images).astype(np.uint8)


def speckle_noise(images: np.ndarray, sigma: float, rngs: Generators) -> np.ndarray:
    """x + x * sigma * N(0, 1)."""
    return truncated(images * (1 + sigma * draws(rngs, lambda rng: rng.standard_normal(images.shape[1:]))))
