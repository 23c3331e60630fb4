"""The common corruptions of Hendrycks & Dietterich (2019, arXiv:1903.12261): 19 types at five severities.

They are our own implementation of the published descriptions and parameters, for uint8 images [N, H, W, 3] (RGB). Every
example has its own random numbers, seeded by (type, severity, example id), so the result does not depend on the batch.
The published sets were drawn without a seed: ours follow the same distribution and are not the same pictures.

Results are cut down to whole grey levels, as the published generator does, except where a docstring says "rounded". The
published ImageNet-C has also been through JPEG at quality 85, which `corrupt` does not apply.
Lengths are pixels of 32 x 32 or 224 x 224 images and are not scaled to other sizes.

From libraries: random numbers of NumPy; blurs, correlation, labels and distances of scipy.ndimage, scipy.fft and
scipy.sparse; JPEG and box resizing of Pillow; the pictures of frost, from the package imagecorruptions.
"""

from collections.abc import Callable

import numpy as np

from arada.data.corruptions import blur, digital, noise, weather
from arada.data.corruptions.severities import PARAMETERS
from arada.data.corruptions.weather import frost_pictures
from arada.errors import UserError

SEVERITIES = (1, 2, 3, 4, 5)

# The position of a type seeds its random numbers: append, never reorder.
FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": weather.spatter,
    "saturate": digital.saturate,
}

# The types of the AR-AdaLS paper: 19 for CIFAR-10-C, 17 for CIFAR-100-C, 15 for ImageNet-C.
CIFAR10_TYPES = tuple(FUNCTIONS)
CIFAR100_TYPES = tuple(name for name in CIFAR10_TYPES if name not in ("motion_blur", "snow"))
IMAGENET_TYPES = CIFAR10_TYPES[:15]

_CHUNK_PIXELS = 2**18  # 256 CIFAR images: a chunk's float64 arrays stay at 6 MB each


def corrupt(
    images: np.ndarray, example_id: np.ndarray, name: str, severity: int, *, parameters: str = "cifar"
) -> np.ndarray:
    """The images under the corruption `name` at `severity` 1..5; an example's result is its own, whatever the batch.

    Args:
      images: uint8[N, H, W, 3], RGB.
      example_id: int32[N]; seeds the random numbers, with the type and the severity.
      parameters: "cifar" (32 px) or "imagenet" (224 px).

    Returns:
      uint8[N, H, W, 3]. Raises UserError for unknown names, and for frost without its pictures.
    """
    if name not in FUNCTIONS:
        raise UserError(f"corruption must be one of {', '.join(FUNCTIONS)}, not {name!r}")
    if severity not in SEVERITIES:
        raise UserError(f"severity must be 1, 2, 3, 4 or 5, not {severity!r}")
    if parameters not in PARAMETERS:
        raise UserError(f"parameters must be 'cifar' or 'imagenet', not {parameters!r}")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(f"images must be uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
    if np.shape(example_id) != (len(images),):
        raise UserError(f"example_id must be one number per image, [{len(images)}], not {list(np.shape(example_id))}")
    strength = PARAMETERS[parameters][name][severity - 1]
    # A negative id, as padding has, counts as the uint32 of the same bits.
    seeds = [(CIFAR10_TYPES.index(name), severity, int(number) % 2**32) for number in example_id]
    result = np.empty(images.shape, np.uint8)
    step = max(1, _CHUNK_PIXELS // max(1, images.shape[1] * images.shape[2]))
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        rngs = [np.random.default_rng(np.random.SeedSequence(seed)) for seed in seeds[part]]
        result[part] = FUNCTIONS[name](images[part], strength, rngs)
    return result


__all__ = ["CIFAR10_TYPES", "CIFAR100_TYPES", "IMAGENET_TYPES", "SEVERITIES", "corrupt", "frost_pictures"]
