"""Predictions, stored once: logits of a trained run on clean, shifted and out-of-distribution images."""

import logging
from collections.abc import Iterator

import ml_collections
import numpy as np
import scipy.special
from etils import epath

from arada import files, streaming
from arada.data import Dataset, Split
from arada.training.progress import Progress

logger = logging.getLogger(__name__)


def dataset_names(evaluation: ml_collections.ConfigDict) -> list[str]:
    """The data sets that a config evaluates on: clean, shifted, and from elsewhere."""
    return [
        "test",
        "validation",
        *(f"{name}_{severity}" for name in evaluation.shifts for severity in evaluation.severities),
        *(f"ood_{name.replace('/', '_')}" for name in evaluation.out_of_distribution),
    ]


def splits_of(
    evaluation: ml_collections.ConfigDict, dataset: Dataset, splits: dict[str, Split], wanted: set[str]
) -> Iterator[tuple[str, Split]]:
    """The splits whose names are `wanted`, made one at a time."""
    sources = {
        "test": lambda: splits["test"],
        "validation": lambda: splits["validation"],
        **{
            f"{name}_{severity}": lambda name=name, severity=severity: dataset.shifted(splits["test"], name, severity)
            for name in evaluation.shifts
            for severity in evaluation.severities
        },
        **{
            f"ood_{name.replace('/', '_')}": lambda name=name: dataset.out_of_distribution(name)
            for name in evaluation.out_of_distribution
        },
    }
    yield from ((name, make()) for name, make in sources.items() if name in wanted)


def predict(
    job: str,
    mapped,
    variables,
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    splits: dict[str, Split],
    directory: epath.Path,
    replicas,
) -> None:
    """Writes `directory`/<data set>.npz for every data set that has none: example_id, label, logits [1, N, Z].

    `mapped`(variables, batch) returns {"logits": [B, Z]}.
    """
    missing = {name for name in dataset_names(config.evaluation) if not (directory / f"{name}.npz").exists()}
    if not missing:
        return
    logger.info("%s: predicting on %d data sets", job, len(missing))
    progress = Progress(job, "data set", len(missing), len(splits["test"]))
    for done, (name, split) in enumerate(splits_of(config.evaluation, dataset, splits, missing), start=1):
        outputs = streaming.over(
            mapped, variables, split, batch_size=config.run.evaluation_batch_size, replicas=replicas
        )
        outputs["logits"] = outputs["logits"][None].astype(np.float32)
        files.write_npz(directory / f"{name}.npz", outputs)
        progress.update(done)


def read(directory: epath.Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probabilities over members float32[N, Z], labels int32[N] and example ids int32[N] of a stored set."""
    stored = files.read_npz(directory / f"{name}.npz")
    return scipy.special.softmax(stored["logits"], axis=-1).mean(axis=0), stored["label"], stored["example_id"]
