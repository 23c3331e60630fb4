"""Predictions, stored once: logits of a trained run on clean, shifted and out-of-distribution images."""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np
import scipy.special
from etils import epath

from arada import files, streaming
from arada.data import Dataset, Split
from arada.training.progress import Progress
from arada.training.replication import Replicas

logger = logging.getLogger(__name__)


def dataset_names(evaluation: ml_collections.ConfigDict) -> list[str]:
    """The data sets that a config evaluates on: clean, shifted, and from elsewhere."""
    return [
        "test",
        "validation",
        *(f"{name}_{severity}" for name in evaluation.shifts for severity in evaluation.severities),
        *(ood_name(name) for name in evaluation.out_of_distribution),
    ]


def ood_name(name: str) -> str:
    """The stored name of an out-of-distribution set; TFDS names have slashes."""
    return f"ood_{name.replace('/', '_')}"


def missing(directory: epath.Path, evaluation: ml_collections.ConfigDict) -> set[str]:
    """The data sets of which `directory` holds no predictions."""
    return {name for name in dataset_names(evaluation) if not (directory / f"{name}.npz").exists()}


def _splits_of(
    evaluation: ml_collections.ConfigDict, dataset: Dataset, splits: dict[str, Split], wanted: set[str]
) -> Iterator[tuple[str, Split]]:
    """The splits whose names are `wanted`, made one at a time."""
    shifted = [(name, severity) for name in evaluation.shifts for severity in evaluation.severities]
    makers = (
        *(functools.partial(splits.get, name) for name in ("test", "validation")),
        *(functools.partial(dataset.shifted, splits["test"], name, severity) for name, severity in shifted),
        *(functools.partial(dataset.out_of_distribution, name) for name in evaluation.out_of_distribution),
    )
    yield from ((name, make()) for name, make in zip(dataset_names(evaluation), makers, strict=True) if name in wanted)


def predict(
    job: str,
    mapped: Callable,
    runs: Mapping[epath.Path, Any],
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    splits: dict[str, Split],
    replicas: Replicas,
) -> None:
    """Writes `directory`/<data set>.npz wherever it is missing: example_id, label, logits [1, N, Z].

    Args:
      job: what progress lines call it.
      mapped: (variables, batch) -> {"logits": [B, Z]}.
      runs: from the directory of a run's predictions to its variables. A shifted set is made once for all of them.
    """
    wanted = {directory: missing(directory, config.evaluation) for directory in runs}
    datasets = set().union(*wanted.values())
    logger.info("%s: predicting on %d data sets with %d models", job, len(datasets), len(runs))
    progress = Progress(job, "data set", len(datasets), len(splits["test"]) * len(runs))
    batch_size = config.run.evaluation_batch_size
    for done, (name, split) in enumerate(_splits_of(config.evaluation, dataset, splits, datasets), start=1):
        for directory, variables in runs.items():
            if name in wanted[directory]:
                outputs = streaming.over(mapped, variables, split, batch_size=batch_size, replicas=replicas)
                outputs["logits"] = outputs["logits"][None].astype(np.float32)
                files.write_npz(directory / f"{name}.npz", outputs)
        progress.update(done)


def read(directory: epath.Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probabilities over members float32[N, Z], labels int32[N] and example ids int32[N] of a stored set."""
    stored = files.read_npz(directory / f"{name}.npz")
    return scipy.special.softmax(stored["logits"], axis=-1).mean(axis=0), stored["label"], stored["example_id"]


def read_logits(directory: epath.Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32[N, Z] of the mean over members, its logarithm, and labels int32[N] of a stored set."""
    stored = files.read_npz(directory / f"{name}.npz")
    members = scipy.special.log_softmax(stored["logits"], axis=-1)
    return scipy.special.logsumexp(members, axis=0) - np.float32(np.log(len(members))), stored["label"]
