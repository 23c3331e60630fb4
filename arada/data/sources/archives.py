"""CIFAR-10 and CIFAR-100 as their author publishes them, in the order of his files, unpacked or not.

TFDS has other ids, because it shuffles what it prepares.

The "python version" is a pickle. Nothing in it is ever called: the NumPy names in the files are replaced by a record of
its arguments, any other name is an error, and the array is made here from the bytes and the shape on record.
"""

import dataclasses
import gzip
import io
import pickle
import tarfile
import zlib
from typing import Any

import numpy as np
from etils import epath

from arada.data.splits import Split
from arada.errors import UserError
from arada.runtime import files

URL = "https://www.cs.toronto.edu/~kriz/"
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of a data set without `.bin`, with the images in each; the label of an image is its last label byte."""

    binary: str
    python: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    train_images: int
    test_images: int
    label_bytes: int
    label_key: bytes
    binary_names: str
    python_names: str
    names_key: bytes


LAYOUTS = {
    "cifar10": Layout(
        binary="cifar-10-batches-bin",
        python="cifar-10-batches-py",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
        train_images=10_000,
        test_images=10_000,
        label_bytes=1,
        label_key=b"labels",
        binary_names="batches.meta.txt",
        python_names="batches.meta",
        names_key=b"label_names",
    ),
    # A coarse label comes before the fine one.
    "cifar100": Layout(
        binary="cifar-100-binary",
        python="cifar-100-python",
        train=("train",),
        test=("test",),
        train_images=50_000,
        test_images=10_000,
        label_bytes=2,
        label_key=b"fine_labels",
        binary_names="fine_label_names.txt",
        python_names="meta",
        names_key=b"fine_label_names",
    ),
}
# The archives of those folders.
TARS = {
    "cifar-10-batches-bin": "cifar-10-binary.tar.gz",
    "cifar-10-batches-py": "cifar-10-python.tar.gz",
    "cifar-100-binary": "cifar-100-binary.tar.gz",
    "cifar-100-python": "cifar-100-python.tar.gz",
}


def how_to_get(name: str, data_dir: str) -> str:
    """Says what to download by hand, and where to put it."""
    tar = TARS[LAYOUTS[name].binary]
    return f"fetch {URL}{tar} into {data_dir or 'a folder DIR'} (no need to unpack it)"


@dataclasses.dataclass(frozen=True)
class CifarArchive:
    """The folder or `.tar.gz` of CIFAR in the folder `path`: the binary version, or else the python version."""

    name: str
    path: str

    @property
    def where(self) -> str:
        return f"run.data_dir={self.path}"

    def read(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Images are uint8 [N, 32, 32, 3]."""
        if self.name not in LAYOUTS:
            raise UserError(f"data.name is {self.name!r}; data.source='cifar_archive' has {' and '.join(LAYOUTS)}")
        layout, root = LAYOUTS[self.name], files.absolute(self.path)
        versions = (layout.binary, _from_binary, ".bin"), (layout.python, _from_python, "")
        there = [each for each in versions if (root / each[0]).is_dir() or (root / TARS[each[0]]).is_file()]
        if not there:
            raise UserError(
                f"{self.where} holds none of {layout.binary}, {layout.python}, {TARS[layout.binary]} and "
                f"{TARS[layout.python]}; {how_to_get(self.name, self.path)}"
            )
        folder, parse, ending = there[0]
        counts = dict.fromkeys(layout.train, layout.train_images) | dict.fromkeys(layout.test, layout.test_images)
        contents = _contents(root, folder, [f"{file}{ending}" for file in counts])
        read = {}
        for (file, count), content in zip(counts.items(), contents, strict=True):
            try:
                read[file] = parse(content, count, layout)
            except ValueError as error:
                raise UserError(
                    f"{root}: {folder}/{file}{ending} {error}; {how_to_get(self.name, self.path)}"
                ) from None
        parts = {"train": layout.train, "test": layout.test}
        return {
            part: (np.concatenate([read[file][0] for file in names]), np.concatenate([read[file][1] for file in names]))
            for part, names in parts.items()
        }

    def published_position(self, test: Split) -> np.ndarray:
        """The order of the files is the published order."""
        return test.example_id.astype(np.int64)

    def class_names(self) -> list[str]:
        """From the file of names beside the images; empty if it is missing or cannot be read."""
        layout, root = LAYOUTS[self.name], files.absolute(self.path)
        for folder, file in ((layout.binary, layout.binary_names), (layout.python, layout.python_names)):
            try:
                (content,) = _contents(root, folder, [file])
            except UserError:
                continue
            if folder == layout.binary:
                return content.decode(errors="replace").split()
            try:
                stored = _Recording(io.BytesIO(content), encoding="bytes").load()
                return [name.decode(errors="replace") for name in stored[layout.names_key]]
            except Exception:  # as in `_from_python`
                continue
        return []


def _contents(root: epath.Path, folder: str, names: list[str]) -> list[bytes]:
    """The bytes of files in a folder, or in its archive where it is not unpacked."""
    unpacked, tar = (root / folder).is_dir(), root / TARS[folder]
    found = {}
    try:
        if unpacked:
            found = {name: (root / folder / name).read_bytes() for name in names if (root / folder / name).exists()}
        else:
            # In one pass: gzip cannot jump. Nothing is unpacked on disk.
            with (
                tar.open("rb") as file,
                gzip.open(file) as stream,
                tarfile.open(fileobj=stream, mode="r|") as archive,
            ):
                for member in archive:
                    name = member.name.removeprefix("./").removeprefix(f"{folder}/")
                    if member.isfile() and name in names:
                        found[name] = archive.extractfile(member).read()  # type: ignore[union-attr]
                # To the end, where the checksum is.
                while stream.read(2**20):
                    pass
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{root / folder if unpacked else tar} cannot be read ({error}); fetch it again") from None
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{root / folder if unpacked else tar} has no {', '.join(missing)}; fetch it again")
    return [found[name] for name in names]


def _from_binary(content: bytes, count: int, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    size = layout.label_bytes + _PIXELS
    if len(content) != count * size:
        raise ValueError(f"has {len(content):,} bytes instead of {count * size:,}")
    rows = np.frombuffer(content, np.uint8).reshape(count, size)
    return _images(rows[:, layout.label_bytes :]), rows[:, layout.label_bytes - 1].astype(np.int32)


def _from_python(content: bytes, count: int, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    try:
        stored = _Recording(io.BytesIO(content), encoding="bytes").load()
        record, labels = stored[b"data"], np.array(stored[layout.label_key])
        # (1, shape, dtype, whether by columns, bytes), as NumPy has written it since 2006.
        _, shape, dtype, by_columns, raw = record.state
        rows = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_columns else "C")
        if dtype.arguments[0] not in ("u1", b"u1"):
            raise ValueError(f"pixels are {dtype.arguments[0]}")
    # A broken pickle can raise anything.
    except Exception as error:
        raise ValueError(f"is not the expected pickle ({type(error).__name__}: {error})") from None
    if rows.shape != (count, _PIXELS) or labels.shape != (count,) or labels.dtype.kind != "i":
        raise ValueError(f"holds pixels {rows.shape} and labels {labels.shape} instead of {count:,} images")
    return _images(rows), labels.astype(np.int32)


def _images(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(-1, *_SHAPE).transpose(0, 2, 3, 1))


class _Record:
    """Replaces what a pickle would call: keeps the arguments and the state, and does nothing."""

    def __init__(self, *arguments: Any):
        self.arguments, self.state = arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


_RECORDED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _Recording(pickle.Unpickler):
    """Unpickles containers, numbers and bytes; three names of NumPy are recorded, all others refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Never looks anything up."""
        if (module, name) not in _RECORDED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which pictures do not need")
        return _Record
