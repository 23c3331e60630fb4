"""The metrics of one method: of each of its runs, and of all of them together."""

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

# By name, the data sets of a type of shift, one a severity.
ShiftedSets = Mapping[str, Sequence[str]]
# Runs as they are and after each calibrator.
VARIANTS = ("plain", *calibrators.BY_NAME)
CLEAN = ("test", "validation")
# Other images than those of the test set.
NOT_RESAMPLED = ("validation",)
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
    kept: epath.Path,
) -> Method:
    """The metrics of the runs whose predictions lie in `directories`, by seed; `rankings` are of those that have one.

    A run has metrics of all data sets that it was predicted on, the variance is over those of all runs. What was
    measured before lies in the folder `kept`.
    """
    runs, of_seeds, keys = {}, [], []
    for seed, directory in directories.items():
        key = _key(config, directory, rankings.get(seed), resamples)
        compute = functools.partial(_of_run, config, directory, rankings.get(seed), resamples)
        run, resampled = cache.remembered(kept / f"seed_{seed}.npz", key, compute)
        shifted, estimates = shifted_sets(config, [directory]), run.pop("estimates")
        on_all = {name: _on_all(of_variant, shifted) for name, of_variant in estimates.items()}
        calibrated = {name: of | on_all[name] for name, of in run.pop("fitted").items()}
        runs[str(seed)] = {**on_all["plain"], "calibrated": calibrated, **run}
        names = [name for name in estimates["plain"] if name not in NOT_RESAMPLED]
        by_variant = zip(estimates, resampled, strict=True)
        of_seeds.append({variant: bootstrap.unstack(estimates[variant], names, of) for variant, of in by_variant})
        keys.append(key)
    together = {
        name: bootstrap.mean_over_seeds([of[name] for of in of_seeds])
        for name in VARIANTS
        if all(name in of for of in of_seeds)
    }
    variance = None
    if len(directories) > 1:
        key = cache.digest(keys, config.evaluation.variance_of)
        variance, _ = cache.remembered(
            kept / "variance.npz", key, lambda: (_variance(config, directories, rankings), np.zeros(0))
        )
    return Method({"seeds": list(directories), "runs": runs, "variance": variance}, together)


def _key(config, directory: epath.Path, ranking: Ranking | None, resamples: Resamples) -> str:
    """Tells whether a run has to be measured again."""
    names = [name for name in predictions.dataset_names(config.evaluation) if (directory / f"{name}.npz").exists()]
    checksums = {name: files.npz_checksums(directory / f"{name}.npz") for name in names}
    ranked = [zlib.crc32(array.tobytes()) for array in (ranking.example_id, ranking.score)] if ranking else []
    settings = config.evaluation.num_bins, config.ranking.num_subsets, resamples.checksum
    return cache.digest(cache.code(__file__), checksums, ranked, settings)


def _of_run(config, directory, ranking: Ranking | None, resamples: Resamples) -> tuple[dict[str, Any], np.ndarray]:
    """All metrics of one run, and the resampled ones float32[variants, data sets, METRICS, RESAMPLES]."""
    num_bins, fitted = config.evaluation.num_bins, predictions.fitted(directory)
    # Predictions from elsewhere may come without validation images, and then no calibrator is fitted.
    clean, variants = [name for name in CLEAN if (directory / f"{name}.npz").exists()], ("plain", *fitted)
    names = (*clean, *(name for sets in shifted_sets(config, [directory]).values() for name in sets))
    logger.info("metrics of %s/%s: %d data sets", directory.parent.name, directory.name, len(names))
    estimates: dict[str, dict] = {name: {} for name in variants}
    resampled: dict[str, list] = {name: [] for name in variants}
    for name in names:
        by_variant, example_id = predictions.read_outcomes(directory, name, fitted, num_bins)
        whole = predictions.calibrated(predictions.read_logits(directory, name)[0], fitted) if name in CLEAN else {}
        for variant, of_variant in by_variant.items():
            estimates[variant][name] = outcomes.measure(of_variant, num_bins)
            if name in CLEAN:
                estimates[variant][name] |= outcomes.slow(of_variant, whole[variant], num_bins)
            if name not in NOT_RESAMPLED:
                resampled[variant].append(resamples.metrics(example_id, of_variant, num_bins))
    stacked = [[[of_set[key] for key in bootstrap.METRICS] for of_set in resampled[name]] for name in variants]
    return {
        "estimates": estimates,
        "fitted": {name: of._asdict() for name, of in fitted.items()},
        "ood": _out_of_distribution(config, directory),
        "subsets": _by_subset(config, directory, ranking),
    }, np.asarray(stacked, np.float32)


def shifted_sets(config: ml_collections.ConfigDict, directories: Sequence[epath.Path]) -> dict[str, list[str]]:
    """The data sets of each type of shift, of those types that were predicted in all `directories`."""
    evaluation = config.evaluation
    missing = set().union(*(predictions.missing(directory, evaluation) for directory in directories))
    sets = predictions.shifted_names(evaluation)
    return {name: of_type for name, of_type in sets.items() if not missing.intersection(of_type)}


def _on_all(estimates: Mapping[str, dict], shifted: ShiftedSets) -> dict[str, Any]:
    return {
        "test": estimates["test"],
        "validation": estimates.get("validation"),
        "shift": {name: [estimates[of] for of in sets] for name, sets in shifted.items()},
    }


def _out_of_distribution(config, directory) -> dict[str, dict[str, float]]:
    """How well confidence and entropy tell images of another kind, the positives, from the test set (section 5.5)."""
    evaluation, found = config.evaluation, {}
    there = {name: predictions.ood_name(name) for name in evaluation.out_of_distribution}
    there = {name: of for name, of in there.items() if of not in predictions.missing(directory, evaluation)}
    inside = predictions.read(directory, "test").probabilities if there else np.zeros((0, 2))
    for name, stored in there.items():
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
    floors = [metrics.binned_floor(confidence[of], **options) for of in in_subset]
    of_subsets: dict[str, Any] = {
        "accuracy": metrics.subset_means(correct, subset, count),
        "confidence": metrics.subset_means(confidence, subset, count),
        "ece": [float(metrics.binned_error(confidence[of], correct[of], **options)) for of in in_subset],
        "ece_floor": [floor.mean for floor in floors],
        "ece_p95": [floor.p95 for floor in floors],
        "ece_debiased": [metrics.debiased_error(confidence[of], correct[of], **options) for of in in_subset],
    }
    numbers = {key: [float(x) if np.isfinite(x) else None for x in values] for key, values in of_subsets.items()}
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
    """Section 3.1: over runs, by data set; by subset the mean over the rankings of the runs that have one."""

    def of(name: str) -> tuple[np.ndarray, np.ndarray]:
        stored = [predictions.read(directory, name) for directory in directories.values()]
        _, labels, ids = stored[0]
        if any(not np.array_equal(run.example_id, ids) for run in stored):
            where = ", ".join(map(str, directories.values()))
            raise UserError(f"{name}.npz holds other examples in {where}; delete them and evaluate again")
        blocks = [slice(start, start + BLOCK) for start in range(0, len(labels), BLOCK)]
        of_blocks = [
            metrics.example_variance(
                np.stack([run.probabilities[at] for run in stored]), labels[at], config.evaluation.variance_of
            )
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
