"""Images by class in folders: `<class>/*.png`, or `train/<class>/*.png` beside `test/<class>/*.png`.

Classes are labelled by the order of their names, images of a class are in the order of their names; an id is the
position in this order, so adding or removing a file changes the ids after it.
"""

import concurrent.futures
import dataclasses
import io

import numpy as np
from etils import epath

from arada.data.splits import Split
from arada.errors import UserError
from arada.runtime import files

ENDINGS = (".bmp", ".jfif", ".jpeg", ".jpg", ".png", ".webp")
# What Windows and macOS leave in folders and archives; names that begin with a dot are skipped too.
LEFT_BY_SYSTEMS = ("Thumbs.db", "desktop.ini", "__MACOSX")
_MODES = {1: "L", 3: "RGB"}


def decode(content: bytes, image_shape: tuple[int, int, int]) -> np.ndarray:
    """An image file as uint8 `image_shape`, of one channel (luminance) or three (RGB). Raises ValueError.

    It is turned as its EXIF says, cut to the shape's proportions about the centre (a square for a square), and brought
    to size by Pillow's bicubic filter, which smooths what it shrinks. Transparent pixels become white; of 16 bits
    the upper eight are kept.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError  # takes a moment that other data sets need not wait

    height, width, channels = image_shape
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        has_16_bits = image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in image.tile)  # type: ignore[attr-defined]
        image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:  # whose text names a buffer in memory
        raise ValueError("Pillow does not know its format") from None
    # Pillow raises all of these for a broken file.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
    if has_16_bits:
        image = _in_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    # RGB first: Pillow filters neither palettes nor pixels of one bit.
    image = ImageOps.fit(image.convert(_MODES[channels]), (width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(image_shape)


def _in_8_bits(image):
    """The upper eight of 16 bits. Pillow leaves grey pixels in 16, and of all others the colour that is transparent."""
    from PIL import Image

    transparent = image.info.get("transparency")
    if not image.mode.startswith("I"):
        if isinstance(transparent, tuple):
            image.info["transparency"] = tuple(value >> 8 for value in transparent)
        return image
    pixels = np.asarray(image).astype(np.uint32)
    grey = Image.fromarray((pixels >> 8).clip(0, 255).astype(np.uint8))
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(pixels == transparent, 0, 255).astype(np.uint8)))
    return grey


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder of images by class; its test part is used if it has one."""

    path: str
    image_shape: tuple[int, int, int]
    num_classes: int

    @property
    def where(self) -> str:
        return f"run.data_dir={self.path}"

    def read(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Images are uint8 of `image_shape`."""
        if len(self.image_shape) != 3 or self.image_shape[-1] not in _MODES:
            raise UserError(f"data.image_shape is {self.image_shape}; it must be (height, width, 1 or 3)")
        root, parts = self._parts()
        if not parts:
            return {"train": self._part(root, self._classes(root))}
        if foreign := parts.keys() - {"train", "test"}:
            raise UserError(
                f"{self.where} has {', '.join(sorted(foreign))} beside train; only train and test are read, and "
                "validation images are drawn from train: move them into train, or away"
            )
        classes = self._classes(parts["train"])
        return {name: self._part(path, classes) for name, path in parts.items()}

    def published_position(self, test: Split) -> np.ndarray:
        """Raises UserError."""
        raise UserError(
            "evaluation.shift_source: no shifted version of these images is published; use 'generated' or 'simple'"
        )

    def class_names(self) -> list[str]:
        """The names of the folders, escaped if they are not UTF-8."""
        root, parts = self._parts()
        return [files.printable(name) for name in self._classes(parts.get("train", root))]

    def _parts(self) -> tuple[epath.Path, dict[str, epath.Path]]:
        """The root, and the folders of its parts if it has parts."""
        root = files.absolute(self.path)
        if not root.is_dir():
            raise UserError(f"{self.where} is not a folder; data.source='folder' needs one with images by class")
        parts = {path.name: path for path in _folders(root)}
        # A class may be called train: only folders in it make it a part.
        return root, (parts if "train" in parts and _folders(parts["train"]) else {})

    def _classes(self, part: epath.Path) -> list[str]:
        classes = [path.name for path in _folders(part)]
        if len(classes) != self.num_classes:
            some = f" ({', '.join(map(files.printable, classes[:5]))}{', ...' if len(classes) > 5 else ''})"
            some = some if classes else ""
            raise UserError(
                f"data.num_classes is {self.num_classes}, but {part} has {len(classes)} folders{some}, one per class"
            )
        return classes

    def _part(self, part: epath.Path, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
        found = {path.name: _images(path) for path in _folders(part)}
        if unknown := found.keys() - set(classes):
            raise UserError(
                f"{part} has the class {files.printable(min(unknown))!r}, which train lacks; remove it, or "
                f"add it to train"
            )
        paths = [path for name in classes for path in found.get(name, ())]
        labels = [label for label, name in enumerate(classes) for _ in found.get(name, ())]
        images = np.empty((len(paths), *self.image_shape), np.uint8)

        def read(index: int) -> None:
            try:
                images[index] = decode(files.read_bytes(paths[index]), self.image_shape)
            except (ValueError, OSError) as error:
                path = files.printable(str(paths[index]))
                raise UserError(f"cannot read image {path}: {error}. Fix or delete it.") from None

        # Pillow decodes outside of Python's lock, and stores far away take their time.
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(read, range(len(paths))))
        return images, np.asarray(labels, np.int32)


def _folders(path: epath.Path) -> list[epath.Path]:
    return [each for each in _of_user(path) if each.is_dir()]


def _images(path: epath.Path) -> list[epath.Path]:
    found = _of_user(path)
    if not found:
        raise UserError(
            f"{files.printable(str(path))} holds no image; remove the folder, or put the images of its class there"
        )
    for each in found:
        if not each.name.lower().endswith(ENDINGS):
            where = files.printable(str(each))
            raise UserError(f"{where} has no image's file ending ({' '.join(ENDINGS)}); rename, convert or remove it")
    return found


def _of_user(path: epath.Path) -> list[epath.Path]:
    found = files.entries(path)
    return [each for each in found if not each.name.startswith(".") and each.name not in LEFT_BY_SYSTEMS]
