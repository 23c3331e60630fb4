"""The metrics of one method: of each run, and of all runs together."""

import functools
import logging
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from etils import epath

from arada import calibrators, metrics
from arada.errors import UserError
from arada.evaluation import bootstrap, cache, outcomes, predictions
from arada.evaluation.bootstrap import Resamples, Sampled
from arada.runs.ranks import Ranking
from arada.runtime import files

logger = logging.getLogger(__name__)

# By type of shift, its data sets, one for each severity.
ShiftedSets = Mapping[str, Sequence[str]]
# Predictions without and with each calibrator.
VARIANTS = ("plain", *calibrators.BY_NAME)
CLEAN = ("test", "validation")
# Data sets whose images are not test images.
NOT_RESAMPLED = ("validation",)
# Images in a block of the variance: 1,000 classes of five runs take 40 KB an image in float64.
BLOCK = 4096


class Method(NamedTuple):
    """A method's part of evaluation.json, and by variant the samples for its intervals."""

    report: dict[str, Any]
    sampled: dict[str, Sampled]


def measure(
    config: ml_collections.ConfigDict,
    directories: Mapping[int, epath.Path],
    rankings: Mapping[int, Ranking],
    resamples: Resamples,
    cache_folder: epath.Path,
) -> Method:
    """The metrics of the runs with predictions in `directories`, by seed; `rankings`, too, for the runs that have one.

    A run has metrics on all its predicted data sets; the variance is on the data sets that all runs have. Earlier
    results are read from `cache_folder`.
    """
    runs, samples, keys = {}, [], []
    for seed, directory in directories.items():
        key = _key(config, directory, rankings.get(seed), resamples)
        compute = functools.partial(_run_metrics, config, directory, rankings.get(seed), resamples)
        run, resampled = cache.cached(cache_folder / f"seed_{seed}.npz", key, compute)
        shifted, estimates = shifted_sets(config, [directory]), run.pop("estimates")
        by_variant = {variant: _by_part(metrics_by_set, shifted) for variant, metrics_by_set in estimates.items()}
        calibrated = {name: fitted | by_variant[name] for name, fitted in run.pop("fitted").items()}
        runs[str(seed)] = {**by_variant["plain"], "calibrated": calibrated, **run}
        names = [name for name in estimates["plain"] if name not in NOT_RESAMPLED]
        samples.append(
            {
                variant: bootstrap.unstack(estimates[variant], names, values)
                for variant, values in zip(estimates, resampled, strict=True)
            }
        )
        keys.append(key)
    means = {
        variant: bootstrap.mean_over_seeds([sampled[variant] for sampled in samples])
        for variant in VARIANTS
        if all(variant in sampled for sampled in samples)
    }
    variance = None
    if len(directories) > 1:
        key = cache.digest(keys, config.evaluation.variance_of)
        variance, _ = cache.cached(
            cache_folder / "variance.npz", key, lambda: (_variance(config, directories, rankings), np.zeros(0))
        )
    return Method({"seeds": list(directories), "runs": runs, "variance": variance}, means)


def _key(config, directory: epath.Path, ranking: Ranking | None, resamples: Resamples) -> str:
    """The key of a run's cached metrics."""
    names = [name for name in predictions.dataset_names(config.evaluation) if (directory / f"{name}.npz").exists()]
    checksums = {name: files.npz_checksums(directory / f"{name}.npz") for name in names}
    ranked = [zlib.crc32(array.tobytes()) for array in (ranking.example_id, ranking.score)] if ranking else []
    settings = config.evaluation.num_bins, config.ranking.num_subsets, resamples.checksum
    return cache.digest(cache.code(__file__), checksums, ranked, settings)


def _run_metrics(config, directory, ranking: Ranking | None, resamples: Resamples) -> tuple[dict[str, Any], np.ndarray]:
    """All metrics of one run, and the resampled ones float32[variants, data sets, METRICS, RESAMPLES]."""
    num_bins, fitted = config.evaluation.num_bins, predictions.fitted(directory)
    # Added predictions may lack validation images; then no calibrator is fitted.
    clean, variants = [name for name in CLEAN if (directory / f"{name}.npz").exists()], ("plain", *fitted)
    names = (*clean, *(name for sets in shifted_sets(config, [directory]).values() for name in sets))
    logger.info("metrics of %s/%s: %d data sets", directory.parent.name, directory.name, len(names))
    estimates: dict[str, dict] = {name: {} for name in variants}
    resampled: dict[str, list] = {name: [] for name in variants}
    for name in names:
        by_variant, example_id = predictions.read_outcomes(directory, name, fitted, num_bins)
        logits = predictions.read_logits(directory, name)[0] if name in CLEAN else None
        probabilities = predictions.calibrated(logits, fitted) if logits is not None else {}
        for variant, found in by_variant.items():
            estimates[variant][name] = outcomes.measure(found, num_bins)
            if name in CLEAN:
                estimates[variant][name] |= outcomes.measure_slowly(found, probabilities[variant], num_bins)
            if name not in NOT_RESAMPLED:
                resampled[variant].append(resamples.metrics(example_id, found, num_bins))
    stacked = [[[values[key] for key in bootstrap.METRICS] for values in resampled[variant]] for variant in variants]
    return {
        "estimates": estimates,
        "fitted": {name: calibrator._asdict() for name, calibrator in fitted.items()},
        "ood": _out_of_distribution(config, directory),
        "subsets": _by_subset(config, directory, ranking),
    }, np.asarray(stacked, np.float32)


def shifted_sets(config: ml_collections.ConfigDict, directories: Sequence[epath.Path]) -> dict[str, list[str]]:
    """The data sets of each type of shift that has predictions in all `directories`."""
    evaluation = config.evaluation
    missing = set().union(*(predictions.missing(directory, evaluation) for directory in directories))
    sets = predictions.shifted_names(evaluation)
    return {name: severities for name, severities in sets.items() if not missing.intersection(severities)}


def _by_part(metrics_by_set: Mapping[str, dict], shifted: ShiftedSets) -> dict[str, Any]:
    return {
        "test": metrics_by_set["test"],
        "validation": metrics_by_set.get("validation"),
        "shift": {name: [metrics_by_set[dataset] for dataset in sets] for name, sets in shifted.items()},
    }


def _out_of_distribution(config, directory) -> dict[str, dict[str, float]]:
    """How well confidence and entropy separate images of another kind (positives) from the test set (section 5.5)."""
    evaluation, found = config.evaluation, {}
    missing = predictions.missing(directory, evaluation)
    stored_names = {name: predictions.ood_name(name) for name in evaluation.out_of_distribution}
    stored_names = {name: stored for name, stored in stored_names.items() if stored not in missing}
    inside = predictions.read(directory, "test").probabilities if stored_names else np.zeros((0, 2))
    for name, stored in stored_names.items():
        outside = predictions.read(directory, stored).probabilities
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
    in_subset, options = [subset == r for r in range(count)], {"num_bins": config.evaluation.num_bins}
    floors = [metrics.binned_floor(confidence[rows], **options) for rows in in_subset]
    by_metric: dict[str, Any] = {
        "accuracy": metrics.subset_means(correct, subset, count),
        "confidence": metrics.subset_means(confidence, subset, count),
        "ece": [float(metrics.binned_error(confidence[rows], correct[rows], **options)) for rows in in_subset],
        "ece_floor": [floor.mean for floor in floors],
        "ece_p95": [floor.p95 for floor in floors],
        "ece_debiased": [metrics.debiased_error(confidence[rows], correct[rows], **options) for rows in in_subset],
    }
    numbers = {key: [float(x) if np.isfinite(x) else None for x in values] for key, values in by_metric.items()}
    return {"count": np.bincount(subset, minlength=count).tolist(), **numbers}


def _subset_of(config, ranking: Ranking, ids: np.ndarray) -> np.ndarray:
    try:
        return ranking.subsets_at(ids, config.ranking.num_subsets)
    except LookupError:
        raise UserError(
            f"ranking.source: {config.ranking.source} ranks other images than the test split holds; choose one of this "
            f"data set and data.split_seed"
        ) from None


def _variance(config, directories, rankings) -> dict[str, Any]:
    """Section 3.1: the variance over runs by data set, and by subset, averaged over the rankings."""

    def by_example(name: str) -> tuple[np.ndarray, np.ndarray]:
        stored = [predictions.read(directory, name) for directory in directories.values()]
        _, labels, ids = stored[0]
        if any(not np.array_equal(run.example_id, ids) for run in stored):
            where = ", ".join(map(str, directories.values()))
            raise UserError(f"{name}.npz holds different examples in {where}; delete them and evaluate again")
        blocks = [slice(start, start + BLOCK) for start in range(0, len(labels), BLOCK)]
        variances = [
            metrics.example_variance(
                np.stack([run.probabilities[rows] for run in stored]), labels[rows], config.evaluation.variance_of
            )
            for rows in blocks
        ]
        return np.concatenate(variances), ids

    test, ids = by_example("test")
    count = config.ranking.num_subsets
    by_ranking = [metrics.subset_means(test, _subset_of(config, ranking, ids), count) for ranking in rankings.values()]
    return {
        "test": float(test.mean()),
        "subsets": np.mean(by_ranking, axis=0).tolist() if by_ranking else None,
        "shift": {
            name: [float(by_example(shifted)[0].mean()) for shifted in sets]
            for name, sets in shifted_sets(config, list(directories.values())).items()
        },
    }
