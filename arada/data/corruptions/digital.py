"""Digital: brightness, contrast, saturation, elastic transform, pixelation and JPEG."""

import io

import numpy as np
from PIL import Image

from arada.data.corruptions.pixels import Generators, bilinear, draws, gaussian, truncated


def brightness(images: np.ndarray, more: float, rngs: Generators) -> np.ndarray:
    """HSV value + `more`, a fraction of white; hue and saturation stay, so the channels keep their ratios."""
    value = images.max(axis=-1, keepdims=True) / 255
    brighter = 255 * np.minimum(value + more, 1)
    # Black has no ratios: it becomes grey.
    return truncated(np.where(value > 0, images / 255 * (brighter / np.where(value > 0, value, 1)), brighter))


def saturate(images: np.ndarray, strength: tuple[float, float], rngs: Generators) -> np.ndarray:
    """HSV saturation * a + b, clipped to [0, 1]: (a, b). The hue of grey is 0, so b turns grey to red, as published."""
    a, b = strength
    value = images.max(axis=-1, keepdims=True).astype(float)
    below = value - images
    spread = below.max(axis=-1, keepdims=True)
    saturation = np.clip(a * spread / np.maximum(value, 1) + b, 0, 1)
    below = np.where(spread > 0, below / np.maximum(spread, 1), np.array([0, 1, 1]))
    return truncated(value * (1 - saturation * below))


def contrast(images: np.ndarray, left: float, rngs: Generators) -> np.ndarray:
    """mean + left * (x - mean), the mean of each channel of the image."""
    # A sum of whole numbers is the same in whatever order a batch is summed.
    mean = images.sum(axis=(1, 2), keepdims=True, dtype=np.int64) / max(images[0, ..., 0].size, 1)
    return truncated(mean + left * (images - mean))


def pixelate(images: np.ndarray, left: float, rngs: Generators) -> np.ndarray:
    """Shrunk to int(side * left) and enlarged again, both by Pillow's box filter; rounded."""
    height, width = images.shape[1:3]
    small = max(1, int(width * left)), max(1, int(height * left))
    box = Image.Resampling.BOX
    pictures = (Image.fromarray(image).resize(small, box).resize((width, height), box) for image in images)
    return np.stack([np.asarray(picture) for picture in pictures])


def jpeg_compression(images: np.ndarray, quality: int, rngs: Generators) -> np.ndarray:
    """Through JPEG at Pillow's `quality`, with its colour subsampling; rounded."""

    def coded(image):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    return np.stack([coded(image) for image in images])


def elastic_transform(images: np.ndarray, strength: tuple[float, float, float], rngs: Generators) -> np.ndarray:
    """A random affine map, then random displacements: (alpha, sigma, affine), all in pixels.

    The affine map takes three corners of a square of 2/3 of the side about the centre each to a place within
    U(-affine, affine) of it; the displacements are alpha times U(-1, 1) blurred by sigma. Both sample linearly.
    """
    alpha, sigma, affine = strength
    count, height, width = images.shape[:3]
    third = min(height, width) // 3
    corners = np.array([height // 2, width // 2]) + third * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = corners + draws(rngs, lambda rng: rng.uniform(-affine, affine, (3, 2)))
    # Where a place of the result came from: the affine map of the moved corners to the corners.
    back = np.linalg.solve(np.concatenate([moved, np.ones((count, 3, 1))], axis=-1), np.tile(corners, (count, 1, 1)))
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1).astype(float)
    rows, columns = (
        grid[..., 0] * along[:, 0, None, None] + grid[..., 1] * along[:, 1, None, None] + along[:, 2, None, None]
        for along in (back[..., 0], back[..., 1])
    )
    x = bilinear(images.astype(float), rows, columns, repeat_edge=False)
    fields = draws(rngs, lambda rng: rng.uniform(-1, 1, (height, width, 2)))
    down, right = np.moveaxis(alpha * gaussian(fields, sigma, mode="reflect", truncate=3), -1, 0)
    return truncated(bilinear(x, grid[..., 0] + down, grid[..., 1] + right, repeat_edge=True))
