"""The metrics of one method: of each of its runs, and of all of them together."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from etils import epath

from arada import attacks, calibrators, metrics
from arada.errors import UserError
from arada.evaluation import bootstrap, outcomes, predictions
from arada.evaluation.bootstrap import Resamples, Sampled

logger = logging.getLogger(__name__)

# A ranking of the test split, as its file holds it.
Ranking = Mapping[str, np.ndarray]
# By name, the data sets of a type of shift, one a severity.
ShiftedSets = Mapping[str, Sequence[str]]
# Runs as they are and after each calibrator.
VARIANTS = ("plain", *calibrators.BY_NAME)
CLEAN = ("test", "validation")
# Images whose variance is computed at a time: 1,000 classes of five runs take 40 KB an image in float64.
BLOCK = 4096


class Method(NamedTuple):
    """What evaluation.json holds of a method, and by variant what its intervals are made of."""

    report: dict[str, Any]
    sampled: dict[str, Sampled]


def measure(
    config: ml_collections.ConfigDict,
    directories: Mapping[int, epath.Path],
    rankings: Mapping[int, Ranking],
    resamples: Resamples,
) -> Method:
    """The metrics of the runs whose predictions lie in `directories`, by seed; `rankings` are of those that have one.

    A run has metrics of all data sets that it was predicted on, the variance is over those of all runs.
    """
    runs, of_seeds = {}, []
    for seed, directory in directories.items():
        shifted, fitted = shifted_sets(config, [directory]), predictions.fitted(directory)
        names = (*CLEAN, *(name for sets in shifted.values() for name in sets))
        logger.info("metrics of %s/%s: %d data sets", directory.parent.name, directory.name, len(names))
        sampled = _sampled(config, directory, names, fitted, resamples)
        calibrated = {name: of._asdict() | _on_all(sampled[name].estimates, shifted) for name, of in fitted.items()}
        runs[str(seed)] = {
            **_on_all(sampled["plain"].estimates, shifted),
            "calibrated": calibrated,
            "ood": _out_of_distribution(config, directory),
            "subsets": _by_subset(config, directory, rankings.get(seed)),
        }
        of_seeds.append(sampled)
    together = {name: bootstrap.over_seeds([of[name] for of in of_seeds]) for name in VARIANTS}
    variance = _variance(config, directories, rankings) if len(directories) > 1 else None
    return Method({"seeds": list(directories), "runs": runs, "variance": variance}, together)


def shifted_sets(config: ml_collections.ConfigDict, directories: Sequence[epath.Path]) -> dict[str, list[str]]:
    """The data sets of each type of shift, of those types that were predicted in all `directories`."""
    evaluation = config.evaluation
    missing = set().union(*(predictions.missing(directory, evaluation) for directory in directories))
    sets = predictions.shifted_names(evaluation)
    return {name: of_type for name, of_type in sets.items() if not missing.intersection(of_type)}


def _sampled(config, directory, names, fitted, resamples) -> dict[str, Sampled]:
    num_bins = config.evaluation.num_bins
    found = {name: Sampled({}, {}) for name in VARIANTS}
    for name in names:
        by_variant, example_id = predictions.read_outcomes(directory, name, fitted, num_bins)
        for variant, of_variant in by_variant.items():
            found[variant].estimates[name] = outcomes.measure(of_variant, num_bins)
            if name in CLEAN:
                found[variant].estimates[name] |= outcomes.kernel_errors(of_variant)
            if name != "validation":  # other images
                found[variant].resampled[name] = resamples.metrics(example_id, of_variant, num_bins)
    return found


def _on_all(estimates: Mapping[str, dict], shifted: ShiftedSets) -> dict[str, Any]:
    return {
        "test": estimates["test"],
        "validation": estimates["validation"],
        "shift": {name: [estimates[of] for of in sets] for name, sets in shifted.items()},
    }


def _out_of_distribution(config, directory) -> dict[str, dict[str, float]]:
    """How well confidence and entropy tell images of another kind, the positives, from the test set (section 5.5)."""
    evaluation, found = config.evaluation, {}
    there = {name: predictions.ood_name(name) for name in evaluation.out_of_distribution}
    there = {name: of for name, of in there.items() if of not in predictions.missing(directory, evaluation)}
    inside = predictions.read(directory, "test")[0] if there else None
    for name, stored in there.items():
        outside = predictions.read(directory, stored)[0]
        is_outside = np.repeat([False, True], [len(inside), len(outside)])
        both = np.concatenate([inside, outside])
        found[name] = {"entropy": float(metrics.entropy(outside).mean())}
        for key, score in (("confidence", -both.max(axis=-1)), ("entropy", metrics.entropy(both))):
            found[name][f"auroc_{key}"] = metrics.auroc(score, is_outside)
            found[name][f"fpr95_{key}"] = metrics.false_positive_rate(score, is_outside)
    return found


def _by_subset(config, directory, ranking: Ranking | None) -> dict[str, list]:
    if ranking is None:
        return {}
    probabilities, labels, ids = predictions.read(directory, "test")
    subset, count = _subset_of(config, ranking, ids), config.ranking.num_subsets
    confidence, correct = (np.asarray(x) for x in metrics.confidence_and_correct(probabilities, labels))
    errors = [
        float(metrics.binned_error(confidence[subset == r], correct[subset == r], num_bins=config.evaluation.num_bins))
        for r in range(count)
    ]
    return {
        "count": np.bincount(subset, minlength=count).tolist(),
        "accuracy": metrics.subset_means(correct, subset, count).tolist(),
        "confidence": metrics.subset_means(confidence, subset, count).tolist(),
        "ece": errors,
    }


def _subset_of(config, ranking: Ranking, ids: np.ndarray) -> np.ndarray:
    """Joins by id: the subset of each example."""
    order = np.argsort(ranking["example_id"])
    ranked = ranking["example_id"][order]
    at = np.minimum(np.searchsorted(ranked, ids), len(ranked) - 1)
    if not np.array_equal(ranked[at], ids):
        raise UserError(
            f"ranking.source: {config.ranking.source} ranks other images than those of the test split; "
            f"choose one of this data set and data.split_seed"
        )
    return attacks.equal_subsets(ranking["distance"][order], config.ranking.num_subsets)[at]


def _variance(config, directories, rankings) -> dict[str, Any]:
    """Section 3.1: over runs, by data set; by subset the mean over the rankings of the runs that have one."""

    def of(name: str) -> tuple[np.ndarray, np.ndarray]:
        stored = [predictions.read(directory, name) for directory in directories.values()]
        _, labels, ids = stored[0]
        if any(not np.array_equal(of[2], ids) for of in stored):
            where = ", ".join(map(str, directories.values()))
            raise UserError(f"{name}.npz holds other examples in {where}; delete them and evaluate again")
        blocks = [slice(start, start + BLOCK) for start in range(0, len(labels), BLOCK)]
        of_blocks = [
            metrics.example_variance(np.stack([of[0][at] for of in stored]), labels[at], config.evaluation.variance_of)
            for at in blocks
        ]
        return np.concatenate(of_blocks), ids

    of_test, ids = of("test")
    count = config.ranking.num_subsets
    by_run = [metrics.subset_means(of_test, _subset_of(config, of_run, ids), count) for of_run in rankings.values()]
    return {
        "test": float(of_test.mean()),
        "subsets": np.mean(by_run, axis=0).tolist() if by_run else None,
        "shift": {
            name: [float(of(shifted)[0].mean()) for shifted in sets]
            for name, sets in shifted_sets(config, list(directories.values())).items()
        },
    }
