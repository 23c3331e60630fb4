"""Files that are written completely or not at all, on any store that etils.epath supports; text is always UTF-8."""

import contextlib
import fnmatch
import io
import json
import logging
import os
import sys
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from arada.errors import UserError

logger = logging.getLogger(__name__)

# Seconds before each new attempt to read from a failing store.
WAITS = (1, 4, 15, 60)
# An id of this process, for temporary names: two processes may write the same file.
_PROCESS = uuid.uuid4().hex[:8]


def absolute(path: epath.PathLike) -> epath.Path:
    """The absolute path, which orbax needs; gs:// and similar paths do not change."""
    path = epath.Path(path)
    return path if "://" in str(path) else path.expanduser().resolve()


def check_name(path: epath.Path, field: str) -> None:
    """Raises UserError for a path that orbax and TFDS could write but not find again; `field` is its config field."""
    if pattern := sorted(set("*?[") & set(str(path))):
        raise UserError(
            f"{field}={path} has {' '.join(pattern)} in its name, which orbax and TFDS read as a pattern; rename the "
            f"folder, or choose another"
        )
    if printable(str(path)) != str(path):
        raise UserError(f"{field}={printable(str(path))} is not a name in UTF-8; rename the folder, or choose another")


def printable(name: str) -> str:
    """A file name as valid UTF-8: other bytes, such as Latin-1 letters, are escaped as in \\xe9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def entries(folder: epath.Path) -> list[epath.Path]:
    """The entries of a folder, by name. epath's own listing leaves out names that end in ~."""
    if "://" in str(folder):
        return sorted(folder.iterdir())
    return sorted(folder / name for name in os.listdir(folder))


def matching(folder: epath.Path, pattern: str) -> list[epath.Path]:
    """The paths below a folder that match a pattern such as "*/seed_*"; empty if the folder is missing. Characters of
    the folder's own name are not a pattern."""
    found = [folder]
    for part in pattern.split("/"):
        inside = (path for parent in found if parent.is_dir() for path in entries(parent))
        found = [path for path in inside if fnmatch.fnmatchcase(path.name, part)]
    return found


def read_bytes(path: epath.Path) -> bytes:
    """The content of a data set's file, with several attempts. Raises UserError if a store keeps failing, OSError for a
    missing or unreadable file."""
    waits = iter(WAITS)
    while True:
        try:
            return path.read_bytes()
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError):
            raise
        except (OSError, *transient_errors()) as error:  # type: ignore[misc]
            wait_to_retry(waits, str(path), (str(error) or type(error).__name__).splitlines()[0])


def wait_to_retry(waits: Iterator[float], source: str, reason: str) -> None:
    """Waits before `source` is read again. Raises UserError after the last of `waits`."""
    seconds = next(waits, None)
    if seconds is None:
        raise UserError(
            f"{source} cannot be read, after {len(WAITS) + 1} attempts ({reason}); when the store works, the same "
            f"command continues from the saved state"
        ) from None
    logger.warning("%s: a read failed (%s); trying again in %d s", source, reason, seconds)
    time.sleep(seconds)


def transient_errors() -> tuple[type[Exception], ...]:
    """TensorFlow's exceptions, if it is imported, for a store that may work again; not for missing or broken files."""
    tensorflow = sys.modules.get("tensorflow")
    names = ("Unavailable", "DeadlineExceeded", "Aborted", "Internal", "Unknown", "ResourceExhausted", "Cancelled")
    return tuple(getattr(tensorflow.errors, f"{name}Error") for name in names) if tensorflow else ()


def write_bytes(path: epath.Path, content: bytes | bytearray) -> None:
    """Writes a temporary file and renames it: a kill leaves the old or the new file, never half. Raises UserError."""
    new = path.with_name(f"{path.name}.{_PROCESS}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # frees space if the disk is full
            new.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); an old file of this name is unchanged, and after a "
            f"fix the same command continues"
        ) from None


def write_text(path: epath.Path, text: str) -> None:
    """Writes text; characters of file names that are not UTF-8 are escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def read_text(path: epath.Path) -> str:
    """Reads UTF-8 text. Raises ValueError if it is not UTF-8."""
    return path.read_bytes().decode("utf-8-sig")


def write_json(path: epath.Path, value: Any) -> None:
    """Writes `value` as indented JSON. Raises ValueError for NaN, which is not JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: epath.Path) -> Any:
    """Reads a JSON file. Raises UserError if it is broken."""
    with _readable(path, "JSON"):
        return json.loads(read_text(path))


def read_json_lines(path: epath.Path) -> list[Any]:
    """Reads one JSON value per line; empty if the file is missing. Raises UserError if it is broken."""
    if not path.exists():
        return []
    with _readable(path, "JSON lines"):
        return [json.loads(line) for line in read_text(path).splitlines() if line.strip()]


def write_npz(path: epath.Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> None:
    """Writes arrays under their names."""
    buffer = io.BytesIO()
    save: Callable[..., None] = np.savez_compressed if compressed else np.savez
    save(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_npz(path: epath.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an npz file. Raises UserError if it is broken or has pickles, which are never loaded."""
    with _readable(path, "npz"), np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
        # NumPy returns members that are not arrays as bytes.
        return {key: np.asarray(value) for key, value in stored.items()}


def npz_checksums(path: epath.Path) -> list[tuple[str, int, int]]:
    """Name, CRC and size of each array of an npz file, without reading the arrays. Raises UserError if it is broken."""
    with _readable(path, "npz"), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        return [(member.filename, member.CRC, member.file_size) for member in archive.infolist()]


def read_npy(path: epath.Path) -> np.ndarray:
    """Reads the array of an npy file. Raises UserError if it is broken or has pickles, which are never loaded."""
    with _readable(path, "npy"):
        return np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)


def check_arrays(path: epath.Path, arrays: Mapping[str, np.ndarray], **needed: tuple[str, int]) -> None:
    """Raises UserError unless `arrays`, read from `path`, have all `needed` ones: NumPy's kind and number of axes."""
    for name, (kind, axes) in needed.items():
        if name not in arrays or (arrays[name].dtype.kind, arrays[name].ndim) != (kind, axes):
            raise UserError(f"{path} has no array {name} of kind {kind!r} and {axes} axes; delete it and make it again")


@contextlib.contextmanager
def _readable(path: epath.Path, kind: str) -> Iterator[None]:
    # The exceptions of json, zipfile, zlib and NumPy for broken files; RecursionError is for endless nesting.
    reasons = ValueError, TypeError, AttributeError, RuntimeError, EOFError, OSError, MemoryError, SyntaxError, KeyError
    try:
        yield
    except (*reasons, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as {kind} ({reason}); restore it, or delete it and run the stage that makes it"
        ) from None
