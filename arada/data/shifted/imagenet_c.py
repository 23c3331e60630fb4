"""ImageNet-C as published: `<group>/<type>/<severity>/<wnid>/ILSVRC2012_val_00000001.JPEG`, 224 x 224 pixels.

The folder of the group may be missing. Images are decoded when a batch asks for them.

The join with ImageNet of TFDS: an example id is the position in TFDS' files, which are shuffled, so only the file's
number is known on both sides. TFDS keeps it as `file_name`, and `position_of` makes it the position in the published
order of the validation set, from 0: `Dataset.published_position` is `[position_of(name) for name in file_names]`. A
class is the rank of its wnid among all sorted, in TFDS' labels as well; that both sides' labels agree is checked.
"""

import concurrent.futures
import dataclasses
import functools
import io
import re
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath

from arada.data.sources.resize import resized
from arada.data.splits import Split, check_labels
from arada.errors import UserError
from arada.runtime import files

SIZE = 224


def position_of(file_name: str) -> int:
    """`ILSVRC2012_val_00000001.JPEG` as 0, with or without folders and ending. Raises UserError for other names."""
    match = re.fullmatch(r"(?:.*/)?ILSVRC2012_val_(\d{8})(?:\.\w+)?", file_name)
    if not match or int(match[1]) == 0:
        raise UserError(f"{file_name!r} is not an image of ImageNet's validation set, ILSVRC2012_val_<8 digits>.JPEG")
    return int(match[1]) - 1


def decode(content: bytes, name: str, crop: bool = False) -> np.ndarray:
    """A JPEG as uint8 [224, 224, 3]. Raises UserError, naming `name`, if it is broken or of another size.

    `crop` takes the middle 196 pixels and enlarges them to 224: the evaluation crop (224 / 256) and the resize of
    edward2's script, which applies them to these images although they have been cropped before. Rounded to levels.
    """
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise UserError(f"run.published_dir: {name} cannot be decoded ({error}); unpack it again") from None
    if image.size != (SIZE, SIZE):
        raise UserError(
            f"run.published_dir: {name} has {image.size[0]} x {image.size[1]} pixels, not {SIZE} x {SIZE}; unpack "
            f"ImageNet-C again"
        )
    if crop:
        edge = (SIZE - SIZE * SIZE // (SIZE + 32)) // 2
        return resized(np.asarray(image)[edge:-edge, edge:-edge], (SIZE, SIZE), "tf1_bicubic").numpy()
    return np.asarray(image)


class JpegImages:
    """JPEGs, as bytes or as paths, that look like uint8 [N, 224, 224, 3] to a `Split`: indexing decodes, by threads."""

    dtype = np.dtype(np.uint8)

    def __init__(self, sources: Sequence[bytes | epath.Path], crop: bool = False):
        self._sources, self._crop = sources, crop
        self.shape = (len(sources), SIZE, SIZE, 3)

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, at: np.ndarray) -> np.ndarray:
        return np.stack(list(_threads().map(self._decoded, at.tolist())))

    def _decoded(self, index: int) -> np.ndarray:
        source = self._sources[index]
        if isinstance(source, bytes):
            return decode(source, f"image {index}", self._crop)
        return decode(files.read_bytes(source), str(source), self._crop)


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    """Pillow decodes outside of Python's lock."""
    return concurrent.futures.ThreadPoolExecutor(thread_name_prefix="decoding")


@dataclasses.dataclass(frozen=True)
class Tree:
    """The folders of ImageNet-C as a `ShiftSource` of a test split of ImageNet's validation images."""

    test: Split
    position: np.ndarray
    directory: epath.Path
    num_classes: int
    crop: bool = False

    @functools.cached_property
    def _folders(self) -> dict[str, epath.Path]:
        """The folder of each type, be it in a group or not."""
        first = [path for path in self.directory.iterdir() if path.is_dir()]
        second = [path for group in first for path in group.iterdir() if path.is_dir()]
        return {path.name: path for path in (*second, *first) if any((path / str(s)).exists() for s in range(1, 6))}

    def absent(self, names: Iterable[str], severities: Iterable[int]) -> dict[str, str]:
        """Also checks the labels of the first type's first severity."""
        names, severities = tuple(names), tuple(severities)
        if not self._folders:
            raise UserError(
                f"run.published_dir: {self.directory} has neither npy files nor folders <type>/<severity>; "
                f"name the folder of an unpacked CIFAR-10-C, CIFAR-100-C or ImageNet-C"
            )
        there = [name for name in names if name in self._folders]
        for name in there:
            for severity in severities:
                self._classes(name, severity)
        if there and severities:
            self._sources(there[0], severities[0])
        return {name: f"{self.directory} has no folder {name}" for name in names if name not in self._folders}

    def shifted(self, name: str, severity: int) -> Split:
        images = JpegImages(self._sources(name, severity), self.crop)
        return Split(images, self.test.label, self.test.example_id)  # type: ignore[arg-type]

    def _classes(self, name: str, severity: int) -> list[epath.Path]:
        path = self._folders[name] / str(severity)
        if not path.is_dir():
            raise UserError(
                f"run.published_dir: {path} is missing, but other severities are there; unpack {name} again or leave "
                "it out of evaluation.shifts"
            )
        classes = sorted(folder for folder in path.iterdir() if folder.is_dir())
        if len(classes) != self.num_classes:
            raise UserError(
                f"run.published_dir: {path} has {len(classes)} classes, but data.num_classes is {self.num_classes}; "
                f"unpack it again"
            )
        return classes

    def _sources(self, name: str, severity: int) -> list[epath.Path]:
        """The test images' files, in the order of the split."""
        found: dict[int, tuple[epath.Path, int]] = {}
        for label, folder in enumerate(self._classes(name, severity)):
            found |= {position_of(path.name): (path, label) for path in files.matching(folder, "*.JPEG")}
        where = self._folders[name] / str(severity)
        missing = [int(at) for at in self.position if int(at) not in found]
        if missing:
            raise UserError(
                f"run.published_dir: {where} lacks {len(missing)} of {len(self.position)} test images, such as "
                f"ILSVRC2012_val_{missing[0] + 1:08}.JPEG; unpack it again"
            )
        sources, labels = zip(*(found[int(at)] for at in self.position), strict=True)
        check_labels(f"run.published_dir: {where}", np.array(labels), self.test)
        return list(sources)
