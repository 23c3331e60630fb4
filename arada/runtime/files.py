"""Files that are there whole or not at all, on any store that etils.epath reaches."""

import contextlib
import io
import json
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from arada.errors import UserError

# Of this process: two that write the same file must not share its second name.
_PROCESS = uuid.uuid4().hex[:8]


def absolute(path: epath.PathLike) -> epath.Path:
    """The path that does not depend on the current folder, as orbax wants it; gs:// and its like stay as they are."""
    path = epath.Path(path)
    return path if "://" in str(path) else path.expanduser().resolve()


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Writes by way of a second name: a kill leaves the old file or the new one, never half. Raises UserError."""
    new = path.with_name(f"{path.name}.{_PROCESS}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # half of it would take room that may be what is wanting
            new.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}), and what was there before is kept; when it can, "
            f"the same command goes on"
        ) from None


def write_json(path: epath.Path, value: Any) -> None:
    """Writes `value` as indented JSON; NaN is not JSON and raises ValueError."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: epath.Path) -> Any:
    """Reads a JSON file. Raises UserError if it is none."""
    with _readable(path, "JSON"):
        return json.loads(path.read_text())


def read_json_lines(path: epath.Path) -> list[Any]:
    """Reads one JSON value a line; none if there is no such file. Raises UserError for anything else."""
    if not path.exists():
        return []
    with _readable(path, "JSON lines"):
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def write_npz(path: epath.Path, arrays: Mapping[str, np.ndarray], *, compressed: bool = False) -> None:
    """Writes arrays under their names."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_npz(path: epath.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an npz file. Raises UserError if it is none, or holds pickles, which are never loaded."""
    with _readable(path, "npz"), np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
        # A member that is no array comes as bytes.
        return {key: np.asarray(value) for key, value in stored.items()}


def npz_checksums(path: epath.Path) -> list[tuple[str, int, int]]:
    """Name, CRC and size of each array of an npz file, from its directory alone. Raises UserError if it is none."""
    with _readable(path, "npz"), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        return [(member.filename, member.CRC, member.file_size) for member in archive.infolist()]


def check_arrays(path: epath.Path, arrays: Mapping[str, np.ndarray], **needed: tuple[str, int]) -> None:
    """Raises UserError unless `arrays`, read from `path`, have all `needed`: NumPy's kind and the number of axes."""
    for name, (kind, axes) in needed.items():
        if name not in arrays or (arrays[name].dtype.kind, arrays[name].ndim) != (kind, axes):
            raise UserError(f"{path} has no array {name} of kind {kind!r} and {axes} axes; delete it and make it anew")


@contextlib.contextmanager
def _readable(path: epath.Path, kind: str) -> Iterator[None]:
    # What json, zipfile, zlib and NumPy raise for bytes that are not theirs; nesting without end is the RecursionError.
    reasons = ValueError, TypeError, AttributeError, RuntimeError, EOFError, OSError, MemoryError, SyntaxError, KeyError
    try:
        yield
    except (*reasons, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path} cannot be read as {kind} ({reason}); put it back, or delete it and run the stage that makes it"
        ) from None
