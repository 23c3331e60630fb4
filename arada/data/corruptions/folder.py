"""Corrupted images on disk in the layout that CIFAR-10-C was published in.

`<type>.npy` is uint8 [5 N, H, W, 3]: N images of severity 1 in the order given, then N of severity 2, and so on.
`labels.npy` is [5 N], the labels five times over. `source.json` is ours: it records the source of the images.
"""

import concurrent.futures
import functools
import hashlib
import io
import itertools
import json
import logging
import math
import multiprocessing
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from arada.data import corruptions
from arada.errors import UserError
from arada.runtime import files

logger = logging.getLogger(__name__)

_CHUNK = 512  # images a job: 1.5 MB of CIFAR


def _write_npy(path: epath.Path, parts: Iterator[np.ndarray], shape: tuple[int, ...]) -> None:
    """Writes uint8 `parts` one after the other as one array, which is held in memory only once."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    content = bytearray(header.tell() + math.prod(shape))
    content[: header.tell()] = header.getvalue()
    values = np.frombuffer(content, np.uint8, offset=header.tell()).reshape(shape)
    start = 0
    for part in parts:
        values[start : start + len(part)] = part
        start += len(part)
    files.write_bytes(path, content)


def digest(images: np.ndarray, labels: np.ndarray, example_id: np.ndarray) -> str:
    """SHA-256 of the images, labels and ids that a folder is made from."""
    hashed = hashlib.sha256(np.ascontiguousarray(images))  # type: ignore[arg-type]
    for numbers in (labels, example_id):
        hashed.update(np.asarray(numbers, np.int64).tobytes())
    return hashed.hexdigest()


def write(
    directory: epath.PathLike,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    example_id: np.ndarray | None = None,
    types: Sequence[str] = corruptions.CIFAR10_TYPES,
    parameters: str = "cifar",
    workers: int = 1,
) -> tuple[str, ...]:
    """Writes whatever is missing of the folder, each file whole or not at all.

    Args:
      images: uint8[N, H, W, 3]; a memory map will do. It needs the memory of one file, 5 N images.
      labels: int[N].
      example_id: int[N], which seeds the corruptions; None for the images' positions.
      parameters: see `corrupt`.
      workers: processes. More than one are spawned, so a script needs its `if __name__ == "__main__":`.

    Returns:
      The types left out: frost, where its pictures are not installed. Raises UserError if the folder holds others.
    """
    directory = files.absolute(directory)
    if unknown := [name for name in types if name not in corruptions.FUNCTIONS]:
        raise UserError(f"types must be among {', '.join(corruptions.FUNCTIONS)}, not {', '.join(map(repr, unknown))}")
    if parameters not in corruptions.PARAMETERS:
        raise UserError(f"parameters must be 'cifar' or 'imagenet', not {parameters!r}")
    if len(labels) != len(images) or not len(images):
        raise UserError(f"labels must have one number per image, but there are {len(labels)} for {len(images)} images")
    ids = np.arange(len(images)) if example_id is None else example_id
    source = {
        "generator": "arada.data.corruptions",
        "parameters": parameters,
        "shape": list(images.shape),
        "sha256": digest(images, labels, ids),
    }
    known = directory / "source.json"
    if known.exists() and files.read_json(known) != source:
        raise UserError(f"{directory} holds corruptions of {json.dumps(files.read_json(known))}; choose another folder")
    files.write_json(known, source)
    fives = io.BytesIO()
    np.save(fives, np.tile(labels, 5).astype(np.min_scalar_type(np.max(labels))))
    files.write_bytes(directory / "labels.npy", fives.getvalue())

    parts = [slice(start, start + _CHUNK) for start in range(0, len(images), _CHUNK)]
    severities = np.repeat(corruptions.SEVERITIES, len(parts)).tolist()
    parts *= len(corruptions.SEVERITIES)
    left_out = ("frost",) if "frost" in types and corruptions.frost_pictures() is None else ()
    if left_out:
        logger.warning("frost is left out: `pip install --no-deps imagecorruptions` installs its pictures")
    corrupt = functools.partial(corruptions.corrupt, parameters=parameters)
    # JAX's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        each = pool.map if workers > 1 else map
        for name in types:
            path = directory / f"{name}.npy"
            if name in left_out or path.exists():
                continue
            batches = [images[part] for part in parts], [ids[part] for part in parts]
            results = each(corrupt, *batches, itertools.repeat(name), severities)
            _write_npy(path, results, (5 * len(images), *images.shape[1:]))
            logger.info("wrote %s", path)
    return left_out
