"""Weather: snow, frost, fog and spatter."""

import functools
import importlib.util
import pathlib

import numpy as np
from scipy import ndimage

from arada.data.corruptions.pixels import Generators, draws, gaussian, motion_blurred, truncated, zoomed
from arada.errors import UserError

# The published generator draws from these five; it never uses the sixth.
_FROST_FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
_PALE_TURQUOISE = np.array([175, 238, 238])
_BROWN = np.array([63, 42, 20])


def snow(images: np.ndarray, strength: tuple[float, ...], rngs: Generators) -> np.ndarray:
    """Falling snow and a paler image: (mean, sigma, zoom, threshold, radius, blur sigma, mix).

    A normal layer, enlarged, without what lies below the threshold, blurred by ImageMagick's motion blur (our
    own; rounded) at an angle from U(-135, -45) degrees, is added twice, once turned by 180 degrees.
    The image is mix * x + (1 - mix) * max(x, 1.5 * grey + 0.5).
    """
    mean, sigma, zoom, threshold, radius, blur, mix = strength
    height, width = images.shape[1:3]
    layer = draws(rngs, lambda rng: rng.normal(mean, sigma, (height, width, 1)))
    degrees = draws(rngs, lambda rng: rng.uniform(-135, -45))
    layer = zoomed(layer, (zoom,))
    layer = truncated(255 * np.where(layer < threshold, 0, layer))
    layer = motion_blurred(layer, int(radius), blur, degrees).astype(float)
    grey = (images @ np.array([0.299, 0.587, 0.114]))[..., None]
    paler = mix * images + (1 - mix) * np.maximum(images, 1.5 * grey + 0.5 * 255)
    return truncated(paler + layer + layer[:, ::-1, ::-1])


def frost_pictures() -> pathlib.Path | None:
    """The folder of the frost pictures that the installed package imagecorruptions ships; None without it."""
    spec = importlib.util.find_spec("imagecorruptions")  # finds the package without importing it and its dependencies
    folders = spec.submodule_search_locations if spec else None
    folder = pathlib.Path(folders[0]) / "frost" if folders else None
    return folder if folder and all((folder / name).exists() for name in _FROST_FILES) else None


@functools.cache
def _frost(folder: pathlib.Path, every: int) -> list[np.ndarray]:
    from PIL import Image

    # Linear resizing to a fifth without smoothing takes the middle one of five pixels.
    pictures = [np.asarray(Image.open(folder / name).convert("RGB")) for name in _FROST_FILES]
    return [picture[every // 2 :: every, every // 2 :: every] for picture in pictures]


def frost(images: np.ndarray, strength: tuple[float, float, int], rngs: Generators) -> np.ndarray:
    """a * x + b * frost, of a crop of one of five pictures shrunk by `every`: (a, b, every).

    A picture that is smaller than the image is mirrored at its border.
    """
    image_share, frost_share, every = strength
    folder = frost_pictures()
    if folder is None:
        raise UserError(
            "corruption 'frost' needs the pictures of the package imagecorruptions; "
            "run `pip install --no-deps imagecorruptions` or leave the type out"
        )
    pictures = _frost(folder, every)
    height, width = images.shape[1:3]

    def crop(rng):
        picture = pictures[rng.integers(len(pictures))]
        missing = [(0, max(0, side + 1 - have)) for side, have in zip((height, width), picture.shape[:2], strict=True)]
        picture = np.pad(picture, (*missing, (0, 0)), mode="symmetric")
        top, left = rng.integers((picture.shape[0] - height, picture.shape[1] - width))
        return picture[top : top + height, left : left + width]

    return truncated(image_share * images + frost_share * draws(rngs, crop))


def _fractals(rngs: Generators, size: int, decay: float) -> np.ndarray:
    """Diamond-square landscapes [N, size, size] on a torus, from 0 to 1; `size` is a power of two.

    Each new point is the mean of its four neighbours plus uniform noise; the noise's amplitude falls by decay**2 from
    one halving of the step to the next, for the published generator multiplies two amplitudes.
    """
    noise = draws(rngs, lambda rng: rng.uniform(-1, 1, size * size))
    land = np.zeros((len(rngs), size, size))
    step, amplitude, used = size, 1.0, 0
    while step > 1:
        half, side = step // 2, size // step
        new = noise[:, used : used + 3 * side**2].reshape(-1, 3, side, side) * amplitude
        corner = land[:, ::step, ::step]
        right, below = np.roll(corner, -1, axis=2), np.roll(corner, -1, axis=1)
        centre = (corner + right + below + np.roll(right, -1, axis=1)) / 4 + new[:, 0]
        land[:, half::step, half::step] = centre
        land[:, ::step, half::step] = (corner + right + centre + np.roll(centre, 1, axis=1)) / 4 + new[:, 1]
        land[:, half::step, ::step] = (corner + below + centre + np.roll(centre, 1, axis=2)) / 4 + new[:, 2]
        step, amplitude, used = half, amplitude / decay**2, used + 3 * side**2
    land -= land.min(axis=(1, 2), keepdims=True)
    return land / land.max(axis=(1, 2), keepdims=True)


def fog(images: np.ndarray, strength: tuple[float, float], rngs: Generators) -> np.ndarray:
    """(x + weight * fractal) * max / (max + weight), max the brightest value of the image: (weight, decay)."""
    weight, decay = strength
    height, width = images.shape[1:3]
    size = 2 ** int(np.ceil(np.log2(max(height, width, 2))))
    fractal = _fractals(rngs, size, decay)[:, :height, :width, None]
    brightest = images.max(axis=(1, 2, 3), keepdims=True) / 255
    return truncated((images + 255 * weight * fractal) * (brightest / (brightest + weight)))


def _edges(grey: np.ndarray, low: int, high: int) -> np.ndarray:
    """Canny's edges of uint8 [N, H, W], bool: the 3 x 3 Sobel gradient's L1 norm, thinned, with two thresholds."""

    def sobel(along, across):
        smooth = ndimage.correlate1d(grey.astype(int), [1, 2, 1], axis=across, mode="nearest")
        return ndimage.correlate1d(smooth, [-1, 0, 1], axis=along, mode="nearest")

    down, right = sobel(1, 2), sobel(2, 1)
    steep, flat = np.abs(down), np.abs(right)
    norm = steep + flat
    height, width = norm.shape[1:]
    padded = np.pad(norm, ((0, 0), (1, 1), (1, 1)))

    def at(below, after):
        return padded[:, 1 + below : 1 + below + height, 1 + after : 1 + after + width]

    # The gradient's direction is one of four; of two equals along an axis the first is kept.
    falling, rising = (norm > at(-1, -1)) & (norm > at(1, 1)), (norm > at(-1, 1)) & (norm > at(1, -1))
    tangent = np.tan(np.pi / 8)
    thin = np.where(down * right < 0, rising, falling)
    thin = np.where(steep < tangent * flat, (norm > at(0, -1)) & (norm >= at(0, 1)), thin)
    thin = np.where(flat < tangent * steep, (norm > at(-1, 0)) & (norm >= at(1, 0)), thin)
    candidate = thin & (norm > low)
    within_an_image = np.zeros((3, 3, 3), int)
    within_an_image[1] = 1
    label, count = ndimage.label(candidate, within_an_image)
    strong = np.zeros(count + 1, bool)
    strong[label[candidate & (norm > high)]] = True
    return strong[label]


def _equalized(levels: np.ndarray) -> np.ndarray:
    """Histogram equalisation of uint8 [N, H, W], image by image; a constant image does not change."""
    count, pixels = len(levels), levels[0].size
    key = levels + 256 * np.arange(count)[:, None, None]
    upto = np.bincount(key.ravel(), minlength=256 * count).reshape(count, 256).cumsum(axis=1)
    lowest = np.take_along_axis(upto, levels.min(axis=(1, 2))[:, None].astype(int), axis=1)
    table = np.rint((upto - lowest) * (255 / np.maximum(pixels - lowest, 1)))
    return np.where(lowest[..., None] == pixels, levels, table.ravel()[key])


def _water(liquid: np.ndarray) -> np.ndarray:
    """Drops that shine at one side, float [N, H, W] from 0 to 1: Canny, distance, equalisation, emboss."""
    drops = truncated(255 * liquid)
    edges = _edges(drops, 50, 150)
    # An image without edges is far from them everywhere.
    far = [ndimage.distance_transform_edt(~edge) if edge.any() else np.full(edge.shape, 20) for edge in edges]
    near = truncated(ndimage.uniform_filter(np.minimum(far, 20.0), 3, mode="mirror", axes=(1, 2)))
    emboss = np.array([[[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]])
    relief = np.clip(ndimage.correlate(_equalized(near).astype(float), emboss, mode="mirror"), 0, 255)
    shine = drops * np.rint(ndimage.uniform_filter(relief, 3, mode="mirror", axes=(1, 2)))
    return shine / np.maximum(shine.max(axis=(1, 2), keepdims=True), 1)


def spatter(images: np.ndarray, strength: tuple, rngs: Generators) -> np.ndarray:
    """Drops of water or mud: (mean, sigma, blur sigma, threshold, strength, liquid).

    A blurred normal layer without what lies below the threshold. Water adds strength * shine of pale turquoise; mud
    covers with brown where the layer, blurred by `strength` pixels, is above 0.8.
    """
    mean, sigma, blur, threshold, amount, liquid = strength
    layer = gaussian(draws(rngs, lambda rng: rng.normal(mean, sigma, images.shape[1:3])), blur)
    if liquid == "water":
        shine = _water(np.where(layer < threshold, 0, layer))
        return truncated(images + amount * shine[..., None] * _PALE_TURQUOISE)
    cover = gaussian((layer > threshold).astype(float), amount)[..., None]
    cover = np.where(cover < 0.8, 0, cover)
    return truncated(images * (1 - cover) + cover * _BROWN)
