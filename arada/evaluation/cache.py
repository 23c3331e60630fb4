"""Metrics kept on disk: a run is measured again only if its predictions, ranking, settings or code have changed."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from arada import calibrators, metrics
from arada.errors import UserError
from arada.evaluation import bootstrap, compact, outcomes, predictions
from arada.runtime import files

# The modules that compute metrics; `measure` adds itself.
MODULES = (metrics, calibrators, outcomes, compact, predictions, bootstrap)


@functools.cache
def code(*more: str) -> str:
    """A digest of the source files that compute metrics; `more` are paths."""
    paths = [*(str(module.__file__) for module in MODULES), *more]
    return hashlib.sha256(b"".join(pathlib.Path(path).read_bytes() for path in paths)).hexdigest()


def digest(*parts: Any) -> str:
    """A digest of values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cached(
    path: epath.Path, key: str, compute: Callable[[], tuple[dict[str, Any], np.ndarray]]
) -> tuple[dict[str, Any], np.ndarray]:
    """The result of `compute`, a JSON value and an array, read from `path` if it was stored there with the same key."""
    try:
        stored = files.read_npz(path) if path.exists() else {}
        if str(stored.get("key")) == key:
            return json.loads(str(stored["values"])), stored["array"]
    except (UserError, KeyError, ValueError):
        pass  # a broken file is written again
    values, array = compute()
    text = json.dumps(values)
    files.write_npz(path, {"key": np.array(key), "values": np.array(text), "array": array})
    return json.loads(text), array
