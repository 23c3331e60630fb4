"""Predictions in an eighteenth of the space of their 1,000 logits: 219 bytes an image, enough for all metrics.

A file holds the outcomes of the plain probabilities and of the probabilities after each calibrator, so calibrators
cannot be fitted again; and the TOP largest probabilities of each image, for the variance over runs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.special
from etils import epath

from arada.calibrators import BY_NAME, Calibrator
from arada.errors import UserError
from arada.evaluation import outcomes
from arada.evaluation.outcomes import Outcomes
from arada.runtime import files

TOP = 20


def compact(
    logits: np.ndarray, labels: np.ndarray, calibrators: Mapping[str, Calibrator], num_bins: int
) -> dict[str, np.ndarray]:
    """The arrays that replace logits float32[N, Z] (of an ensemble: the logits of its mean prediction)."""
    probabilities = scipy.special.softmax(logits, axis=-1)
    top = min(TOP, probabilities.shape[-1])
    classes = np.argpartition(-probabilities, top - 1, axis=-1)[:, :top].astype(np.int32)
    arrays: dict[str, Any] = {
        "top_class": classes,
        "top_probability": np.take_along_axis(probabilities, classes, axis=-1),
        "num_classes": np.int32(probabilities.shape[-1]),
        "num_bins": np.int32(num_bins),
    }
    variants = {"plain": probabilities} | {name: calibrator(logits) for name, calibrator in calibrators.items()}
    for name, variant in variants.items():
        found = outcomes.from_probabilities(variant, labels, num_bins)._asdict()
        arrays |= {f"{name}_{key}": np.asarray(value) for key, value in found.items()}
    return arrays


def is_compact(stored: Mapping[str, np.ndarray]) -> bool:
    """Whether a prediction file was written by `compact`."""
    return "top_class" in stored


def check(path: epath.Path, stored: Mapping[str, np.ndarray]) -> None:
    """Raises UserError unless `compact` could have made the arrays."""
    files.check_arrays(path, stored, top_class=("i", 2), top_probability=("f", 2), num_classes=("i", 0))
    axes = {"correct": ("b", 1), "classwise_ece": ("f", 0)}
    needed = {key: axes.get(key, ("f", 1)) for key in Outcomes._fields}
    for name in ("plain", *BY_NAME):
        files.check_arrays(path, stored, **{f"{name}_{key}": kind for key, kind in needed.items()})
    count, classes = len(stored["label"]), stored["top_class"]
    columns = (stored[f"{name}_{key}"] for name in ("plain", *BY_NAME) for key in needed if needed[key][1])
    if classes.shape != stored["top_probability"].shape or any(len(column) != count for column in columns):
        raise UserError(f"{path} does not have a prediction for each example; delete it and evaluate again")
    if not np.all((classes >= 0) & (classes < stored["num_classes"])):
        raise UserError(f"{path} has class numbers above its num_classes; delete it and evaluate again")


def outcomes_of(stored: Mapping[str, np.ndarray], name: str, num_bins: int) -> Outcomes:
    """The outcomes after the calibrator `name`, or "plain". The class-wise error is NaN if its bins were others."""
    found = Outcomes(**{key: stored[f"{name}_{key}"] for key in Outcomes._fields})  # type: ignore[arg-type]
    same_bins = stored["num_bins"] == num_bins
    return found._replace(classwise_ece=float(found.classwise_ece) if same_bins else np.nan)


def probabilities_of(stored: Mapping[str, np.ndarray]) -> np.ndarray:
    """float32[N, Z], 0 outside the TOP classes of each image; the error is at most 1 minus their sum."""
    probabilities = np.zeros((len(stored["top_class"]), int(stored["num_classes"])), np.float32)
    np.put_along_axis(probabilities, stored["top_class"], stored["top_probability"], axis=-1)
    return probabilities
