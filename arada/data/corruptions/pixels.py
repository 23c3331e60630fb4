"""Helpers of several corruptions: random fields, grey levels, blurs and resampling of image batches."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import ndimage, sparse

Generators = Sequence[np.random.Generator]


def draws(rngs: Generators, draw: Callable[[np.random.Generator], Any]) -> np.ndarray:
    """One draw from the generator of each example, stacked along a first axis."""
    return np.stack([draw(rng) for rng in rngs])


def truncated(levels: np.ndarray) -> np.ndarray:
    """Grey levels 0..255 cut down to whole ones, uint8."""
    # The millionth keeps a level that rounding errors left a hair below a whole one.
    return (np.clip(levels, 0, 255) + 1e-6).astype(np.uint8)


def gaussian(images: np.ndarray, sigma: float, mode: str = "nearest", truncate: float = 4.0) -> np.ndarray:
    """Gaussian blur of float [N, H, W, ...] along H and W; sigma in pixels, the kernel ends at `truncate` sigma."""
    return ndimage.gaussian_filter(images, sigma, mode=mode, truncate=truncate, axes=(1, 2))


@functools.lru_cache(maxsize=2)  # 30 MB each at 224 pixels
def zoom_matrix(height: int, width: int, factors: tuple[float, ...]) -> sparse.csr_array:
    """The mean of enlargements about the centre as one linear map of pixels, sparse [H * W, H * W].

    An enlargement by z crops the middle ceil(side / z), samples it linearly to round(crop * z) pixels whose corners
    are the crop's, and trims that to the side.
    """

    def along(side, factor):
        crop = math.ceil(side / factor)
        large = round(crop * factor)
        at = (np.arange(side) + (large - side) // 2) * ((crop - 1) / max(large - 1, 1))
        low = np.clip(np.floor(at).astype(int), 0, max(crop - 2, 0))
        high = np.minimum(low + 1, crop - 1)
        out, offset = np.arange(side), (side - crop) // 2
        weights = np.concatenate([1 - (at - low), at - low])
        entries = np.concatenate([out, out]), np.concatenate([low, high]) + offset
        return sparse.coo_array((weights, entries), shape=(side, side)).tocsr()

    maps = [sparse.kron(along(height, factor), along(width, factor), format="csr") for factor in factors]
    return sum(maps[1:], start=maps[0]) / len(maps)


def zoomed(images: np.ndarray, factors: tuple[float, ...]) -> np.ndarray:
    """The mean of float [N, H, W, C] enlarged about the centre by each of `factors`."""
    count, height, width, channels = images.shape
    columns = images.transpose(1, 2, 0, 3).reshape(height * width, count * channels)
    columns = zoom_matrix(height, width, factors) @ columns
    return columns.reshape(height, width, count, channels).transpose(2, 0, 1, 3)


def motion_blurred(images: np.ndarray, radius: int, sigma: float, degrees: np.ndarray) -> np.ndarray:
    """Grey levels [N, H, W, C] blurred from one side along an angle a sample, rounded to uint8.

    As ImageMagick documents its motion blur: 2 * radius + 1 samples at whole pixels along the angle
    (0 points right, 90 down) weighted by one half of a Gaussian; beyond the border the nearest pixel counts.
    """
    height, width = images.shape[1:3]
    along = np.arange(2 * radius + 1)
    weights = np.exp(-(along**2) / (2 * sigma**2))
    weights /= weights.sum()
    reach = 2 * radius
    padded = np.pad(images.astype(float), ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    result = np.zeros(images.shape)
    for blurred, source, angle in zip(result, padded, np.radians(degrees), strict=True):
        downs = np.ceil(along * np.sin(angle) - 0.5).astype(int) + reach
        rights = np.ceil(along * np.cos(angle) - 0.5).astype(int) + reach
        for weight, down, right in zip(weights, downs, rights, strict=True):
            blurred += weight * source[down : down + height, right : right + width]
    return np.rint(result).astype(np.uint8)


def bilinear(images: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, repeat_edge: bool) -> np.ndarray:
    """float [N, H, W, C] at real-valued positions [N, H', W'], in pixels; mirrored at the border.

    The mirror is the edge of the image, so that its last pixels repeat, or the centre of its last pixels.
    """

    def mirrored(index, size):
        period = 2 * size if repeat_edge else max(2 * size - 2, 1)
        index = index % period
        return np.minimum(index, period - repeat_edge - index)

    height, width = images.shape[1:3]
    example = np.arange(len(images))[:, None, None]
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    above, below = mirrored(top, height), mirrored(top + 1, height)
    before, after = mirrored(left, width), mirrored(left + 1, width)
    upper = images[example, above, before] * (1 - right) + images[example, above, after] * right
    lower = images[example, below, before] * (1 - right) + images[example, below, after] * right
    return upper * (1 - down) + lower * down
