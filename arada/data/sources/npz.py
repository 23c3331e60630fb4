"""Images and labels in one `.npz`.

`image` and `label`, or `train_image`, `train_label`, `test_image` and `test_label`; other arrays are not read. Images
are uint8, or float in [0, 1], [N, H, W, C], or [N, H, W] of one channel; labels are whole numbers from 0 on.
"""

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
        """As of `Source`."""
        return f"run.data_dir={self.path}"

    def read(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """As of `Source`."""
        path = files.absolute(self.path)
        if not path.is_file():
            raise UserError(f"{self.where} is no file; data.source is 'npz', so name one")
        try:
            with path.open("rb") as file, zipfile.ZipFile(file) as archive:
                keys = {name.removesuffix(".npy") for name in archive.namelist()}
            for layout in LAYOUTS:
                if keys.issuperset(key for pair in layout.values() for key in pair):
                    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                        # A member that is no array comes as bytes.
                        read = {key: np.asarray(arrays[key]) for pair in layout.values() for key in pair}
                    return {part: (_channels(read[image]), read[label]) for part, (image, label) in layout.items()}
        # NumPy raises a ValueError for objects, which would have to be unpickled; zip and zlib theirs for half a file.
        except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"{self.where} cannot be read as npz ({reason}); write it anew") from None
        raise UserError(
            f"{self.where} holds {', '.join(sorted(keys)) or 'nothing'}; it needs image and label, or train_image, "
            f"train_label, test_image and test_label"
        )

    def published_position(self, test: Split) -> np.ndarray:
        """Raises UserError."""
        raise UserError("evaluation.shift_source: nobody published these images shifted; take 'generated' or 'simple'")

    def class_names(self) -> list[str]:
        """As of `Dataset`: labels are numbers here."""
        return []


def _channels(images: np.ndarray) -> np.ndarray:
    return images[..., None] if images.ndim == 3 else images
