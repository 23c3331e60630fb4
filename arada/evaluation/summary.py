"""All metrics of a workdir's stored predictions, as `evaluation.json`. Fractions, never percentages."""

import datetime
import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from arada import attacks, files, provenance
from arada import workdir as workdirs
from arada.data import shift_sources
from arada.errors import UserError
from arada.evaluation import calibrators, metrics, predictions

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


def summarize(
    workdir: workdirs.Workdir,
    config: ml_collections.ConfigDict,
    absent: Mapping[str, Mapping[str, str]] | None = None,
    runs: Iterable[tuple[str, int]] | None = None,
) -> dict[str, Any]:
    """The metrics of every run with predictions, on the data sets that `config.evaluation` names.

    `absent` says why shifts and out-of-distribution sets could not be read (`predictions.absent`). `runs` are pairs of
    name and seed, by default all of the workdir's but those of sweeps.

    Subsets are those of the ranking by an attack on `config.ranking.source` of the test split, for every method alike,
    also for those that were trained on other ranks.
    """
    ranking_dir = workdir.ranking(config.ranking.source)
    ranked = {name: ranking_dir / f"{name}.npz" for name in SPLITS}
    rankings = {name: files.read_npz(path) for name, path in ranked.items() if path.exists()}
    # A folder may hold a control's ranks, which say nothing of robustness.
    rankings = {name: ranking for name, ranking in rankings.items() if "distance" in ranking}
    by_method: dict[str, list[int]] = {}
    for name, seed in workdir.runs() if runs is None else runs:
        clean = (workdir.predictions(name, seed) / f"{split}.npz" for split in ("test", "validation"))
        if not all(file.exists() for file in clean):
            continue
        made_by, now = (workdirs.stored(of(name, seed))["identity"] for of in (workdir.predictions, workdir.run))
        if made_by != now:
            logger.warning(
                "%s/seed_%d was trained anew since it was evaluated and is left out; delete %s and evaluate it again",
                name,
                seed,
                workdir.predictions(name, seed),
            )
            continue
        by_method.setdefault(name, []).append(seed)
    methods = {name: _method(workdir, config, name, seeds, rankings.get("test")) for name, seeds in by_method.items()}
    return {
        "experiment": _experiment(workdir, config, by_method, rankings, ranking_dir)
        | _evaluated_on(config.evaluation, methods, absent or {"shift": {}, "ood": {}}),
        "methods": methods,
    }


def _evaluated_on(evaluation, methods, absent) -> dict[str, Any]:
    """What every mean over shifts is over, and which of the config's sets no run was predicted on."""
    runs = [run for method in methods.values() for run in method["runs"].values()]

    def parted(key: str, names) -> tuple[list[str], dict[str, str]]:
        present = [name for name in names if any(name in run[key] for run in runs)]
        return present, {name: absent[key].get(name, "not predicted") for name in names if name not in present}

    types, missing_types = parted("shift", shift_sources.types(evaluation))
    ood, missing_ood = parted("ood", evaluation.out_of_distribution)
    return {
        "shift_source": evaluation.shift_source,
        "shift_types": types,
        "shift_missing": missing_types,
        "shift_severities": list(evaluation.severities),
        # 0: all.
        "shift_max_examples": evaluation.max_examples_per_shift,
        "shift_cropped": evaluation.crop_shifted,
        "ood": ood,
        "ood_missing": missing_ood,
    }


def _experiment(workdir, config, by_method, rankings, ranking_dir) -> dict[str, Any]:
    # The ranking's own settings: it may come from elsewhere.
    ranked = workdirs.stored(ranking_dir)["identity"]["ranking"] if (ranking_dir / "config.json").exists() else {}
    made_with = [
        workdirs.stored(workdir.run(name, seed))["made_with"] for name, seeds in by_method.items() for seed in seeds
    ]
    return {
        "dataset": config.data.get("name", config.data.source),
        "network": f"{config.model.name}-{config.model.depth}",
        "num_classes": config.data.num_classes,
        "num_examples": {name: len(ranking["example_id"]) for name, ranking in rankings.items()},
        "num_subsets": config.ranking.num_subsets,
        "num_bins": config.evaluation.num_bins,
        "variance_of": config.evaluation.variance_of,
        "ranking": {
            "source": config.ranking.source,
            "by": "attack",
            "attack": ranked.get("attack"),
            "settings": ranked.get(ranked.get("attack"), {}),
            "success_rate": {name: float(np.isfinite(r["distance"]).mean()) for name, r in rankings.items()},
            "accuracy": {name: float((r["predicted"] == r["label"]).mean()) for name, r in rankings.items()},
            "agreement": _agreement(workdir, config.ranking.source, ranked),
        },
        # Of training, not of this evaluation.
        "commit": ", ".join(sorted({made["commit"] for made in made_with})),
        "hardware": ", ".join(sorted({made["hardware"] for made in made_with})),
        "versions": provenance.versions(),
        "time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _agreement(workdir, source: str, ranked: dict) -> dict[str, Any]:
    """What the study of `arada.agreement` on the source run found of the attack that ranked, if it was made."""
    run = workdirs.source_run(source)
    file = workdir.run(*run) / "agreement" / "agreement.json" if run else None
    if not (file and ranked and file.exists()):
        return {}
    study, attack = files.read_json(file), ranked.get("attack")
    # The study names only what differs from an attack's defaults.
    same = (
        row
        for row in study["candidates"]
        if row["attack"] == attack and row["settings"].items() <= ranked[attack].items()
    )
    found = next(same, None)
    return found["train"] | {"reference": study["reference"], "examples": study["examples"]} if found else {}


def _method(workdir, config, name: str, seeds: list[int], ranking) -> dict[str, Any]:
    directories = {seed: workdir.predictions(name, seed) for seed in seeds}
    runs = {
        str(seed): _run(config, directory, ranking) | _training(workdir.run(name, seed))
        for seed, directory in directories.items()
    }
    variance = _variance(config, list(directories.values()), ranking) if len(seeds) > 1 else None
    return {"seeds": seeds, "runs": runs, "variance": variance}


def _run(config: ml_collections.ConfigDict, directory, ranking) -> dict[str, Any]:
    evaluation = config.evaluation
    measured = functools.partial(_measure_stored, directory, evaluation.num_bins)
    probabilities, labels, ids = predictions.read(directory, "test")
    shifted = _shifted(config, [directory])
    return {
        **_on_all(measured, shifted),
        "calibrated": {
            name: _calibrated(directory, evaluation.num_bins, fit, shifted) for name, fit in calibrators.BY_NAME.items()
        },
        "ood": {
            name: _out_of_distribution(probabilities, directory, predictions.ood_name(name))
            for name in evaluation.out_of_distribution
            if predictions.ood_name(name) not in predictions.missing(directory, evaluation)
        },
        "subsets": {}
        if ranking is None
        else _by_subset(config, probabilities, labels, _subset_of(config, ranking, ids)),
    }


def _training(run_dir) -> dict[str, Any]:
    rows = files.read_json_lines(run_dir / "metrics.jsonl")
    if not rows:
        return {"train_accuracy": None, "images_per_second": None}
    speeds = [row["images_per_second"] for row in rows if "images_per_second" in row]
    # Each row is a mean over the steps since the row before it.
    windows = np.diff([0, *(row["step"] for row in rows)])
    last_epoch = [row["epoch"] > rows[-1]["epoch"] - 1 for row in rows]
    accuracy = np.average([row["train/accuracy"] for row in rows], weights=windows * last_epoch)
    return {
        "train_accuracy": float(accuracy),
        "images_per_second": float(np.median(speeds)) if speeds else None,
    }


def _on_all(measured: Callable[[str], dict], shifted: dict[str, list[str]]) -> dict[str, Any]:
    """What `measured` says of each clean and each shifted data set."""
    return {
        "test": measured("test"),
        "validation": measured("validation"),
        "shift": {name: [measured(of) for of in sets] for name, sets in shifted.items()},
    }


def _calibrated(directory, num_bins: int, fit: Callable, shifted: dict[str, list[str]]) -> dict[str, Any]:
    """The metrics after a calibrator that is fitted on the run's validation set, and what it found there."""
    calibrator = fit(*predictions.read_logits(directory, "validation"))

    def measured(name: str) -> dict[str, float]:
        logits, labels = predictions.read_logits(directory, name)
        return measure(calibrator(logits).astype(np.float32), labels, num_bins)

    return calibrator._asdict() | _on_all(measured, shifted)


def _measure_stored(directory, num_bins: int, name: str) -> dict[str, float]:
    probabilities, labels, _ = predictions.read(directory, name)
    return measure(probabilities, labels, num_bins)


def measure(probabilities: np.ndarray, labels: np.ndarray, num_bins: int) -> dict[str, float]:
    """The metrics of one data set: probabilities float[N, Z] against labels int[N]."""
    confidence, correct = metrics.confidence_and_correct(probabilities, labels)
    values = _jitted(probabilities, labels, num_bins) | {
        "aurc": metrics.risk_coverage(confidence, correct)[2],
        "kde_ece": metrics.kde_calibration_error(probabilities, labels),
    }
    return {key: float(value) for key, value in values.items()}


@functools.partial(jax.jit, static_argnums=2)
def _jitted(probabilities, labels, num_bins):
    error = functools.partial(metrics.expected_calibration_error, probabilities, labels, num_bins=num_bins)
    return {
        "accuracy": metrics.accuracy(probabilities, labels),
        "confidence": metrics.confidence_and_correct(probabilities, labels)[0].mean(),
        "ece": error(),
        "ece_quantile": error(binning="quantile"),
        "classwise_ece": metrics.classwise_calibration_error(probabilities, labels, num_bins=num_bins),
        "nll": metrics.negative_log_likelihood(probabilities, labels),
        "brier": metrics.brier_score(probabilities, labels),
    }


def _out_of_distribution(inside: np.ndarray, directory, name: str) -> dict[str, float]:
    outside, _, _ = predictions.read(directory, name)
    is_outside = np.repeat([False, True], [len(inside), len(outside)])
    both = np.concatenate([inside, outside])
    return {
        "auroc_confidence": metrics.auroc(-both.max(axis=-1), is_outside),
        "auroc_entropy": metrics.auroc(metrics.entropy(both), is_outside),
    }


def _subset_of(config, ranking: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
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


def _by_subset(config, probabilities, labels, subset) -> dict[str, list]:
    count = config.ranking.num_subsets
    confidence, correct = metrics.confidence_and_correct(probabilities, labels)
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


def _variance(config, directories, ranking) -> dict[str, Any]:
    evaluation = config.evaluation

    def of(name: str) -> tuple[np.ndarray, np.ndarray]:
        stored = [predictions.read(directory, name) for directory in directories]
        _, labels, ids = stored[0]
        probabilities = np.stack([probabilities for probabilities, _, _ in stored])
        return metrics.example_variance(probabilities, labels, evaluation.variance_of), ids

    of_test, ids = of("test")
    subsets = (
        None
        if ranking is None
        else metrics.subset_means(of_test, _subset_of(config, ranking, ids), config.ranking.num_subsets).tolist()
    )
    return {
        "test": float(of_test.mean()),
        "subsets": subsets,
        "shift": {
            name: [float(of(shifted)[0].mean()) for shifted in sets]
            for name, sets in _shifted(config, directories).items()
        },
    }


def _shifted(config, directories) -> dict[str, list[str]]:
    """The data sets of each type of shift, of those types that were predicted in all `directories`."""
    evaluation = config.evaluation
    missing = set().union(*(predictions.missing(directory, evaluation) for directory in directories))
    sets = predictions.shifted_names(evaluation)
    return {name: of_type for name, of_type in sets.items() if not missing.intersection(of_type)}
