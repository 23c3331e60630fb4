"""Predictions, stored once: logits of a trained run on clean, shifted and out-of-distribution images.

Of shifted images the files may hold what metrics need in place of the logits (`arada.evaluation.compact`).
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import scipy.special
from etils import epath

from arada import calibrators
from arada.calibrators import Calibrator
from arada.data import Dataset, Examples
from arada.data.shifted import sources as shift_sources
from arada.errors import UserError
from arada.evaluation import compact, outcomes
from arada.evaluation.outcomes import Outcomes
from arada.runtime import files, hosts, lease, preemption
from arada.runtime.progress import Progress
from arada.training import streaming
from arada.training.replication import Replicas

logger = logging.getLogger(__name__)


class Sources(NamedTuple):
    """Where the images of an evaluation come from.

    dataset: of out-of-distribution sets.
    shifted: of shifted versions of the test split.
    splits: by name, the clean ones.
    """

    dataset: Dataset
    shifted: shift_sources.ShiftSource
    splits: Mapping[str, Examples]


@dataclasses.dataclass(frozen=True)
class Absent:
    """Data that cannot be read, and why: reasons by type of shift, and by name of an out-of-distribution set."""

    shift: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ood: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def stored_names(self, evaluation: ml_collections.ConfigDict) -> set[str]:
        """The names under which their predictions would be stored."""
        by_type = shifted_names(evaluation)
        return {name for kind in self.shift for name in by_type[kind]} | {ood_name(name) for name in self.ood}


class Predicted(NamedTuple):
    """Mean probabilities over members float32[N, Z], labels int32[N] and example ids int32[N]."""

    probabilities: np.ndarray
    labels: np.ndarray
    example_id: np.ndarray


def dataset_names(evaluation: ml_collections.ConfigDict) -> list[str]:
    """The data sets that a config evaluates on: clean, shifted and out-of-distribution."""
    return [
        "test",
        "validation",
        *(name for names in shifted_names(evaluation).values() for name in names),
        *(ood_name(name) for name in evaluation.out_of_distribution),
    ]


def shifted_names(evaluation: ml_collections.ConfigDict) -> dict[str, list[str]]:
    """The stored names of each type of shift, one a severity."""
    named = functools.partial(shift_sources.stored_name, evaluation)
    return {name: [named(name, at) for at in evaluation.severities] for name in shift_sources.types(evaluation)}


def compacted_names(evaluation: ml_collections.ConfigDict) -> set[str]:
    """The data sets of whose predictions only a summary is stored."""
    if evaluation.store_shifted == "logits":
        return set()
    return {name for names in shifted_names(evaluation).values() for name in names}


def ood_name(name: str) -> str:
    """The stored name of an out-of-distribution set; TFDS names have slashes."""
    return f"ood_{name.replace('/', '_')}"


def missing(directory: epath.Path, evaluation: ml_collections.ConfigDict) -> set[str]:
    """The data sets of which `directory` holds no predictions."""
    return {name for name in dataset_names(evaluation) if not (directory / f"{name}.npz").exists()}


def find_absent(config: ml_collections.ConfigDict, sources: Sources) -> Absent:
    """The data that cannot be read, logged as a warning.

    Raises UserError for a mistake: a name that does not exist, or files that are there and broken.
    """
    evaluation, image_shape = config.evaluation, tuple(config.data.image_shape)
    ood = {name: sources.dataset.why_absent(name, image_shape) for name in evaluation.out_of_distribution}
    absent = Absent(
        sources.shifted.absent(shift_sources.types(evaluation), evaluation.severities),
        {name: reason for name, reason in ood.items() if reason},
    )
    by_reason: dict[str, list[str]] = {}
    for name, reason in (*absent.shift.items(), *absent.ood.items()):
        by_reason.setdefault(reason, []).append(name)
    if by_reason:
        listed = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
        logger.warning("evaluation leaves out missing data: %s", listed)
    return absent


def _each_split(
    evaluation: ml_collections.ConfigDict, sources: Sources, wanted: set[str]
) -> Iterator[tuple[str, Examples]]:
    """The splits whose names are `wanted`, made one at a time."""
    shifts = [(name, severity) for name in shift_sources.types(evaluation) for severity in evaluation.severities]
    makers: tuple[Callable[[], Any], ...] = (
        *(functools.partial(sources.splits.get, name) for name in ("test", "validation")),
        *(functools.partial(sources.shifted.shifted, name, severity) for name, severity in shifts),
        *(functools.partial(sources.dataset.out_of_distribution, name) for name in evaluation.out_of_distribution),
    )
    for name, make in zip(dataset_names(evaluation), makers, strict=True):
        if name in wanted:
            with hosts.first_before_others(name):  # some are kept on disk
                split = make()
            yield name, split


def predict(
    job: str,
    mapped: Callable,
    runs: Mapping[epath.Path, Any],
    config: ml_collections.ConfigDict,
    sources: Sources,
    replicas: Replicas,
    left_out: Collection[str] = (),
) -> None:
    """Writes `directory`/<data set>.npz wherever it is missing: example_id, label, and logits [M, N, Z] or a summary.

    Args:
      job: what progress lines call it.
      mapped: (variables, batch) -> {"logits": [B, M, Z]} of M members.
      runs: from the directory of a run's predictions to its variables. A shifted set is made once for all of them.
      left_out: the stored names of data that cannot be read.
    """
    wanted = {directory: missing(directory, config.evaluation).difference(left_out) for directory in runs}
    datasets = set().union(*wanted.values())
    logger.info("%s: predicting on %d data sets with %d models", job, len(datasets), len(runs))
    progress = Progress(job, "data set", len(datasets), len(sources.splits["test"]) * len(runs))
    batch_size, compacted = config.run.evaluation_batch_size, compacted_names(config.evaluation)
    # The validation set comes before the shifted ones.
    calibrators_of = functools.cache(fitted)
    for done, (name, split) in enumerate(_each_split(config.evaluation, sources, datasets), start=1):
        preemption.stop_if_asked(f"predicting on {name}")
        lacking = {directory: variables for directory, variables in runs.items() if name in wanted[directory]}
        by_run = streaming.map_split_runs(
            mapped, list(lacking.values()), split, batch_size=batch_size, replicas=replicas
        )
        if hosts.is_first():
            for directory, outputs in zip(lacking, by_run, strict=True):
                outputs["logits"] = np.moveaxis(outputs["logits"], 1, 0).astype(np.float32)
                if name in compacted:
                    logits = mean_logits(outputs.pop("logits"))
                    num_bins = config.evaluation.num_bins
                    outputs |= compact.compact(logits, outputs["label"], calibrators_of(directory), num_bins)
                lease.check()
                files.write_npz(directory / f"{name}.npz", outputs)
        progress.update(done)


def join(members: Sequence[epath.Path], directory: epath.Path, name: str) -> None:
    """Writes `directory`/`name`.npz with the logits of all `members`, one after the other."""
    stored = [_stored(member, name) for member in members]
    if any(not np.array_equal(arrays["example_id"], stored[0]["example_id"]) for arrays in stored):
        raise UserError(
            f"{name}.npz holds other examples in {', '.join(map(str, members))}; delete them and evaluate again"
        )
    logits = np.concatenate([arrays["logits"] for arrays in stored])
    files.write_npz(directory / f"{name}.npz", stored[0] | {"logits": logits})


def read(directory: epath.Path, name: str) -> Predicted:
    """The predictions of a stored set."""
    stored = _stored(directory, name)
    if compact.is_compact(stored):
        probabilities = compact.probabilities_of(stored)
    else:
        probabilities = scipy.special.softmax(stored["logits"], axis=-1).mean(axis=0)
    return Predicted(probabilities, stored["label"], stored["example_id"])


def read_logits(directory: epath.Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits float32[N, Z] of the mean over members, its logarithm, and labels int32[N] of a stored set."""
    stored = _stored(directory, name)
    return mean_logits(stored["logits"]), stored["label"]


def read_outcomes(
    directory: epath.Path, name: str, calibrators_: Mapping[str, Calibrator], num_bins: int
) -> tuple[dict[str, Outcomes], np.ndarray]:
    """The outcomes of a stored set, uncalibrated ("plain") and after each calibrator, and its example ids int32[N]."""
    stored = _stored(directory, name)
    if compact.is_compact(stored):
        found = {key: compact.outcomes_of(stored, key, num_bins) for key in ("plain", *calibrators_)}
    else:
        probabilities = calibrated(mean_logits(stored["logits"]), calibrators_)
        found = {
            key: outcomes.from_probabilities(values, stored["label"], num_bins) for key, values in probabilities.items()
        }
    return found, stored["example_id"]


def calibrated(logits: np.ndarray, calibrators_: Mapping[str, Calibrator]) -> dict[str, np.ndarray]:
    """Probabilities float[N, Z], uncalibrated ("plain") and after each calibrator."""
    plain = {"plain": scipy.special.softmax(logits, axis=-1)}
    return plain | {key: calibrator(logits) for key, calibrator in calibrators_.items()}


def mean_logits(logits: np.ndarray) -> np.ndarray:
    """The logarithm [N, Z] of the mean probabilities of M members, from their logits [M, N, Z]."""
    log_probabilities = scipy.special.log_softmax(logits, axis=-1)
    return scipy.special.logsumexp(log_probabilities, axis=0) - np.float32(np.log(len(logits)))


def fitted(directory: epath.Path) -> dict[str, Calibrator]:
    """The calibrators of a run by name, fitted on its validation predictions; none where it has none."""
    if not (directory / "validation.npz").exists():
        return {}
    logits, labels = read_logits(directory, "validation")
    return {name: fit(logits, labels) for name, fit in calibrators.BY_NAME.items()}


def _stored(directory: epath.Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of a stored set. Raises UserError if metrics cannot be computed from them."""
    path = directory / f"{name}.npz"
    stored = files.read_npz(path)
    files.check_arrays(path, stored, example_id=("i", 1), label=("i", 1))
    if compact.is_compact(stored):
        compact.check(path, stored)
        logits, classes = stored["top_probability"], int(stored["num_classes"])
    else:
        files.check_arrays(path, stored, logits=("f", 3))
        logits, classes = np.moveaxis(stored["logits"], 1, 0), stored["logits"].shape[-1]
    label = stored["label"]
    if not (len(logits) == len(label) == len(stored["example_id"]) > 0 and np.isfinite(logits).all() and logits.size):
        raise UserError(f"{path} does not hold a finite prediction of each example; delete it and evaluate again")
    # Out-of-distribution images have labels of their own, or none.
    if not name.startswith(ood_name("")) and not np.all((label >= 0) & (label < classes)):
        raise UserError(f"{path} has labels outside its {classes} classes; delete it and evaluate again")
    return stored
