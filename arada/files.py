"""Files that are there whole or not at all, on any store that etils.epath reaches."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath


def absolute(path: epath.PathLike) -> epath.Path:
    """The path that does not depend on the current folder, as orbax wants it; gs:// and its like stay as they are."""
    path = epath.Path(path)
    return path if "://" in str(path) else path.expanduser().resolve()


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Writes by way of a second name: a kill leaves the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.replace(path)


def write_json(path: epath.Path, value: Any) -> None:
    """Writes `value` as indented JSON; NaN is not JSON and raises ValueError."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: epath.Path) -> Any:
    """Reads a JSON file."""
    return json.loads(path.read_text())


def read_json_lines(path: epath.Path) -> list[Any]:
    """Reads one JSON value a line; none if there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def write_npz(path: epath.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays under their names."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_npz(path: epath.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an npz file; pickles are refused."""
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
        return dict(arrays)
