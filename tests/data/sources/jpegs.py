"""JPEGs to read, and the evaluation crop by hand: bicubic weights as TensorFlow 1 has them."""

import io

import numpy as np
from PIL import Image

from arada.data.sources import tfds


def encoded(pixels, mode="RGB"):
    """Colours are kept at full resolution: where they are not, libjpeg rounds in another way at the edge of a crop."""
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def gradient(height, width):
    """A smooth image without symmetry, which JPEG keeps to a few grey levels."""
    row, column = np.mgrid[0:height, 0:width]
    return np.stack([255 * row / height, 255 * column / width, 128 + 0 * row], axis=-1).astype(np.uint8)


def by_hand(jpeg, size, weights_of):
    """The evaluation crop in plain NumPy: 7/8 of the shorter side, then a resize with the weights [size, side]."""
    image = decoded_as_tensorflow(jpeg).astype(np.float64)
    height, width = image.shape[:2]
    side = int(0.875 * min(height, width))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    crop = image[top : top + side, left : left + side]
    weights = weights_of(side, size)
    resized = np.einsum("ih,hwc,jw->ijc", weights, crop, weights)
    return np.clip(np.round(resized), 0, 255)


def decoded_as_tensorflow(jpeg):
    # libjpeg's fast transform differs from Pillow's by a few grey levels; see the test of colours below.
    return tfds.import_tensorflow().image.decode_jpeg(jpeg, channels=3).numpy()


def keys(x, a):
    """Keys' cubic convolution (1981, equation 15, with its a free)."""
    x = abs(x)
    return (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a


def in_table(offset):
    """TensorFlow looks its kernels up in a table of 1,024 steps a pixel."""
    return np.round(1024 * offset) / 1024


def as_in_tf1(side, size):
    """Weights [size, side] of TF1's bicubic: a = -3/4, no half-pixel centres; the edge's pixel goes on beyond it."""
    weights = np.zeros((size, side))
    for i in range(size):
        first = int(np.floor(i * side / size))
        offset = in_table(i * side / size - first)
        for tap in (-1, 0, 1, 2):
            weights[i, np.clip(first + tap, 0, side - 1)] += keys(tap - offset, -0.75)
    return weights
