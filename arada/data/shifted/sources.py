"""Where shifted test images come from. No mean mixes two sources: each has its own contrast, for example.

"simple": the six of `arada.data.shifts`, for any images. "generated": the published types, made here by
`arada.data.corruptions` and kept on disk. "published": the authors' files of CIFAR-10-C, CIFAR-100-C or ImageNet-C.
"tfds": `cifar10_corrupted`, which repackages the authors' files, and `imagenet2012_corrupted`, which does not: TFDS
corrupts ImageNet itself.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import ml_collections
import numpy as np
from etils import epath

from arada.data import corruptions, shifts
from arada.data.corruptions import folder
from arada.data.shifted import imagenet_c, published
from arada.data.splits import Split, partition
from arada.errors import UserError
from arada.runtime import files

if TYPE_CHECKING:
    from arada.data import Dataset

# The types that each source knows.
TYPES = {
    "simple": tuple(shifts.STRENGTHS),
    "generated": corruptions.CIFAR10_TYPES,
    "published": corruptions.CIFAR10_TYPES,
    "tfds": corruptions.CIFAR10_TYPES,
}
# What `evaluation.shifts` may name instead of types: six of ours, and the paper's 19, 17 and 15.
LISTS = {
    "simple": TYPES["simple"],
    "cifar10": corruptions.CIFAR10_TYPES,
    "cifar100": corruptions.CIFAR100_TYPES,
    "imagenet": corruptions.IMAGENET_TYPES,
}
# Which test images `evaluation.max_examples_per_shift` keeps.
_LIMIT_SEED = 0


class ShiftSource(Protocol):
    """Shifted versions of one test split."""

    def absent(self, names: Iterable[str], severities: Iterable[int]) -> dict[str, str]:
        """The types that are missing, each with the reason and the way out.

        Raises UserError for files that are broken, incomplete, or made of other images.
        """

    def shifted(self, name: str, severity: int) -> Split:
        """The test images under the type `name` at `severity` 1..5, with their ids and labels."""


def types(evaluation: ml_collections.ConfigDict) -> list[str]:
    """The types that `evaluation.shifts` names, singly or as lists, each once."""
    unrolled = (LISTS.get(name, (name,)) for name in evaluation.shifts)
    return list(dict.fromkeys(itertools.chain.from_iterable(unrolled)))


def stored_name(evaluation: ml_collections.ConfigDict, name: str, severity: int) -> str:
    """The name of a shifted set on disk. It holds all that decides the images, so that it differs for another
    source and for another number of images."""
    source = "" if evaluation.shift_source == "simple" else f"{evaluation.shift_source}_"
    cropped = "cropped_" if evaluation.crop_shifted else ""
    limit = f"_of_{evaluation.max_examples_per_shift}" if evaluation.max_examples_per_shift else ""
    return f"{source}{cropped}{name}_{severity}{limit}"


def build(config: ml_collections.ConfigDict, dataset: "Dataset", test: Split, workdir: epath.PathLike) -> ShiftSource:
    """The source that `config.evaluation` names, for the test images it counts. Raises UserError for a
    source that cannot serve them.
    """
    evaluation, run = config.evaluation, config.run
    if 0 < evaluation.max_examples_per_shift < len(test):
        test = test.take(*partition(len(test), (evaluation.max_examples_per_shift,), _LIMIT_SEED))
    if evaluation.shift_source == "simple":
        return _Simple(dataset, test)
    if evaluation.shift_source == "generated":
        return _Generated(test, files.absolute(run.generated_dir or epath.Path(workdir) / "shifted"))
    if evaluation.shift_source == "published" and not run.published_dir:
        return _Nowhere("set run.published_dir to the folder of the published files")
    position = dataset.published_position(test)
    if evaluation.shift_source == "tfds":
        tfds_dir = run.data_dir if config.data.source in ("tfds", "imagenet") else ""
        return published.Tfds(test, position, config.data.name, tfds_dir, evaluation.crop_shifted)
    directory = published.existing(run.published_dir)
    if files.matching(directory, "*.npy"):
        npy = published.NpyFolder(directory, tuple(config.data.image_shape), "run.published_dir")
        return published.Published(test, position, npy, config.data.num_classes)
    return imagenet_c.Tree(test, position, directory, config.data.num_classes, evaluation.crop_shifted)


@dataclasses.dataclass(frozen=True)
class _Simple:
    dataset: "Dataset"
    test: Split

    def absent(self, names, severities):
        return {}

    def shifted(self, name, severity):
        return self.dataset.shifted(self.test, name, severity)


@dataclasses.dataclass(frozen=True)
class _Nowhere:
    why: str

    def absent(self, names, severities):
        return dict.fromkeys(names, self.why)

    def shifted(self, name, severity):
        raise ValueError(self.why)


@dataclasses.dataclass(frozen=True)
class _Generated:
    """Generated corruptions, kept in one folder per test split, named by a digest of its images, labels and ids."""

    test: Split
    directory: epath.Path

    @functools.cached_property
    def _folder(self) -> published.NpyFolder:
        digest = folder.digest(self.test.image, self.test.label, self.test.example_id)
        path = self.directory / f"corrupted_{digest[:16]}"
        return published.NpyFolder(path, self.test.image.shape[1:], "run.generated_dir")

    def absent(self, names, severities):
        if self.test.image.dtype != np.uint8:
            raise UserError(
                f"evaluation.shift_source is 'generated', which takes uint8 images, not {self.test.image.dtype}; "
                f"use 'simple'"
            )
        left_out = corruptions.frost_pictures() is None and not (self._folder.directory / "frost.npy").exists()
        reason = "`pip install --no-deps imagecorruptions` installs its pictures"
        return {name: reason for name in names if name == "frost" and left_out}

    def shifted(self, name, severity):
        path = self._folder.directory
        if not (path / f"{name}.npy").exists():
            test = self.test
            folder.write(path, test.image, test.label, example_id=test.example_id, types=(name,))
        every = np.arange(len(self.test))
        return dataclasses.replace(self.test, image=self._folder.images(name, severity, every))
