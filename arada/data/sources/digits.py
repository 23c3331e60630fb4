"""scikit-learn's handwritten digits as a noisy camera sees them: real images that every machine has.

Clean digits are so easy that a network is under-confident on them and there is nothing to calibrate. The camera adds
Gaussian noise to the signal. Noise of 0.4 clipped at black and white would leave 42 % of the pixels saturated, and
Carlini-Wagner's tanh can hardly move those; so the camera first compresses the noisy signal about mid-grey:

    image = clip(0.5 + contrast * (signal + noise * n - 0.5), 0, 1)

At contrast 0.3 and noise 0.4 about one pixel in 750 saturates. Shifts of the scene come before the camera, shifts of
the sensor after it. Every image keeps its own noise under all shifts of the scene.
"""

import dataclasses
import functools

import numpy as np

from arada.data import shifts
from arada.data.splits import Split, partition
from arada.errors import UserError

SIZE = 8


@functools.cache
def _signals() -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets  # takes a second that other data sets need not wait

    digits = datasets.load_digits()
    return (digits.images[..., None] / 16).astype(np.float32), digits.target.astype(np.int32)


@functools.cache
def _photograph_crops() -> np.ndarray:
    """Grey 8x8 crops of scikit-learn's two sample photographs, shrunk eightfold first: float32[N, 8, 8, 1]."""
    from sklearn import datasets

    crops = []
    for photograph in datasets.load_sample_images().images:
        grey = photograph.mean(axis=-1) / 255
        height, width = (side // 64 * 64 for side in grey.shape)
        small = grey[:height, :width].reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3))
        # A stride of half a crop: about 500 crops, as many as there are test digits.
        for top in range(0, small.shape[0] - SIZE + 1, SIZE // 2):
            for left in range(0, small.shape[1] - SIZE + 1, SIZE // 2):
                crops.append(small[top : top + SIZE, left : left + SIZE])
    return np.stack(crops)[..., None].astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Digits:
    """The 1,797 digits, split at random into train, validation and test."""

    num_train: int
    num_validation: int
    split_seed: int
    noise: float
    contrast: float
    noise_seed: int

    def _camera(self, signals: np.ndarray, stream: int) -> np.ndarray:
        rng = np.random.default_rng((self.noise_seed, stream))
        noisy = signals + self.noise * rng.standard_normal(signals.shape)
        return np.clip(0.5 + self.contrast * (noisy - 0.5), 0, 1).astype(np.float32)

    def splits(self) -> dict[str, Split]:
        """The three splits; the images that are not in train or validation are test. Raises UserError if nothing is
        left for it.
        """
        signals, labels = _signals()
        wanted = self.num_train + self.num_validation
        if wanted >= len(labels):
            raise UserError(
                f"data.num_train + data.num_validation is {wanted}, which leaves none of the {len(labels)} digits "
                "for the test split; choose fewer"
            )
        everything = Split(self._camera(signals, 0), labels, np.arange(len(labels), dtype=np.int32))
        sizes = (self.num_train, self.num_validation, len(labels) - self.num_train - self.num_validation)
        parts = partition(len(labels), sizes, self.split_seed)
        return {name: everything.take(part) for name, part in zip(("train", "validation", "test"), parts, strict=True)}

    def shifted(self, test: Split, name: str, severity: int) -> Split:
        """The test split under the shift `name` at `severity` 1..5."""
        signals, _ = _signals()
        rng = np.random.default_rng((self.noise_seed, shifts.number(name), severity))
        seen = self._camera(shifts.in_scene(signals, name, severity, rng), 0)
        seen = shifts.in_sensor(seen, name, severity, rng, signal_range=self.contrast)
        return dataclasses.replace(test, image=seen[test.example_id])

    def published_position(self, test: Split) -> np.ndarray:
        """Raises UserError."""
        raise UserError("evaluation.shift_source must be 'simple' for digits: no shifted digits are published")

    def class_names(self) -> list[str]:
        return list("0123456789")

    def why_absent(self, name: str, image_shape: tuple[int, ...]) -> str:
        """The photographs are always available."""
        if name != "photographs":
            raise UserError(f"evaluation.out_of_distribution must be 'photographs' for digits, not {name!r}")
        return ""

    def out_of_distribution(self, name: str) -> Split:
        """Photograph crops through the same camera; their labels are -1, because they show none of the ten classes."""
        self.why_absent(name, ())
        images = self._camera(_photograph_crops(), 1)
        count = len(images)
        return Split(images, np.full(count, -1, np.int32), np.arange(count, dtype=np.int32))
