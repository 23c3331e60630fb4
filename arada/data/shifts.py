"""Six generated shifts for any float images [N, H, W, C] in [0, 1], at five severities.

`noise` and `impulse` happen in the sensor, the others in the scene before it. They are our own, scaled to the image's
width, and no replacement for the published corruption benchmarks.
"""

import zlib

import numpy as np
from scipy import ndimage

SEVERITIES = (1, 2, 3, 4, 5)

# The strength of each severity: sigma as a fraction of the signal's range and of the width, the contrast that is
# left, the fraction of pixels, degrees, and a fraction of the width.
STRENGTHS = {
    "noise": (0.1, 0.2, 0.3, 0.4, 0.5),
    "blur": (0.05, 0.075, 0.1, 0.125, 0.15),
    "contrast": (0.8, 0.65, 0.5, 0.4, 0.3),
    "impulse": (0.03, 0.06, 0.1, 0.15, 0.2),
    "rotation": (10, 20, 30, 40, 50),
    "translation": (0.05, 0.1, 0.15, 0.2, 0.25),
}


def number(name: str) -> int:
    """The seed of the shift `name`, independent of the other shifts."""
    return zlib.crc32(name.encode())


def _strength(name: str, severity: int) -> float:
    return STRENGTHS[name][severity - 1]


def in_scene(images: np.ndarray, name: str, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The shifts that happen before the sensor: blur, contrast, rotation and translation; others change nothing."""
    strength = _strength(name, severity)
    width = images.shape[2]
    if name == "blur":
        return ndimage.gaussian_filter(images, (0, strength * width, strength * width, 0), mode="nearest")
    if name == "contrast":
        mean = images.mean(axis=(1, 2), keepdims=True)
        return mean + strength * (images - mean)
    sign = rng.choice((-1.0, 1.0), size=len(images))
    if name == "rotation":
        turned = [
            ndimage.rotate(image, strength * s, reshape=False, order=1, mode="nearest")
            for image, s in zip(images, sign, strict=True)
        ]
        return np.stack(turned)
    if name == "translation":
        angle = rng.uniform(0, 2 * np.pi, size=len(images))
        offset = strength * width * np.stack([np.sin(angle), np.cos(angle), np.zeros(len(images))], axis=1)
        moved = [ndimage.shift(image, by, order=1, mode="nearest") for image, by in zip(images, offset, strict=True)]
        return np.stack(moved)
    return images


def in_sensor(
    images: np.ndarray, name: str, severity: int, rng: np.random.Generator, *, signal_range: float = 1.0
) -> np.ndarray:
    """The shifts that happen in the sensor: noise and impulse; others change nothing. Clipped to [0, 1]."""
    strength = _strength(name, severity)
    if name == "noise":
        images = images + strength * signal_range * rng.standard_normal(images.shape)
    elif name == "impulse":
        hit = rng.uniform(size=images.shape) < strength
        images = np.where(hit, rng.integers(0, 2, size=images.shape), images)
    return np.clip(images, 0, 1).astype(np.float32)
