"""Images and labels in one `.npz`.

`image` and `label`, or `train_image`, `train_label`, `test_image` and `test_label`. Images are uint8, or float in
[0, 1], [N, H, W, C], or [N, H, W] of one channel; labels are whole numbers from 0 on. Two more arrays are read where
they are there: `class_name`, texts in the order of the labels, and `test_position`, where each test image stands in the
published order, by which published shifted images are joined. Others are not read.
"""

import contextlib
import dataclasses
import zipfile
import zlib

import numpy as np

from arada.data.splits import Split
from arada.errors import UserError
from arada.runtime import files

LAYOUTS = (
    {"train": ("train_image", "train_label"), "test": ("test_image", "test_label")},
    {"train": ("image", "label")},
)


@dataclasses.dataclass(frozen=True)
class Npz:
    """One `.npz`; no pickle in it is ever loaded."""

    path: str

    @property
    def where(self) -> str:
        return f"run.data_dir={self.path}"

    def read(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        path = files.absolute(self.path)
        if not path.is_file():
            raise UserError(f"{self.where} is not a file; data.source='npz' needs one")
        try:
            with path.open("rb") as file, zipfile.ZipFile(file) as archive:
                keys = {name.removesuffix(".npy") for name in archive.namelist()}
            for layout in LAYOUTS:
                if keys.issuperset(key for pair in layout.values() for key in pair):
                    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                        # A member that is not an array comes as bytes.
                        read = {key: np.asarray(arrays[key]) for pair in layout.values() for key in pair}
                    return {part: (_channels(read[image]), read[label]) for part, (image, label) in layout.items()}
        # NumPy raises a ValueError for objects, which would have to be unpickled; zip and zlib theirs for half a file.
        except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{self.where} cannot be read as npz ({reason}); write it again") from None
        raise UserError(
            f"{self.where} holds {', '.join(sorted(keys)) or 'nothing'}; it needs image and label, or train_image, "
            f"train_label, test_image and test_label"
        )

    def published_position(self, test: Split) -> np.ndarray:
        """Raises UserError without `test_position`."""
        position = self._column("test_position", "iu")
        if position is None:
            raise UserError(
                f"evaluation.shift_source: {self.where} has no test_position, the position of each test image "
                f"in a published test set; use 'generated' or 'simple'"
            )
        if len(position) <= test.example_id.max():
            raise UserError(f"{self.where}: test_position has {len(position)} entries, fewer than there are images")
        return position.astype(np.int64)[test.example_id]

    def class_names(self) -> list[str]:
        """Empty without `class_name`."""
        names = self._column("class_name", "U")
        return [] if names is None else names.tolist()

    def _column(self, key: str, kinds: str) -> np.ndarray | None:
        """An optional array of one axis; None if it is missing. Raises UserError if it is something else."""
        with files.absolute(self.path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if key not in arrays:
                return None
            column = np.asarray(arrays[key])
        if column.ndim != 1 or column.dtype.kind not in kinds:
            raise UserError(
                f"{self.where}: {key} is {column.dtype} {list(column.shape)}; write the file again, with valid "
                f"numbers or without {key}"
            )
        return column


def _channels(images: np.ndarray) -> np.ndarray:
    return images[..., None] if images.ndim == 3 else images


def arrays_of(source) -> dict[str, np.ndarray]:
    """The arrays that `Npz` reads, from any `Source`: every example keeps its id.

    Raises UserError.
    """
    parts = source.read()
    layout = next(layout for layout in LAYOUTS if layout.keys() == parts.keys())
    arrays = {key: array for part, keys in layout.items() for key, array in zip(keys, parts[part], strict=True)}
    if names := source.class_names():
        arrays["class_name"] = np.array(names)
    if "test" in parts:
        images, labels = parts["test"]
        every = np.arange(len(labels), dtype=np.int32)
        with contextlib.suppress(UserError):  # most data sets have no published order
            arrays["test_position"] = source.published_position(Split(images, labels, every))
    return arrays
