"""All metrics of a workdir's stored predictions, as `evaluation.json`: fractions, never percentages."""

import contextlib
import datetime
import inspect
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from arada import attacks
from arada.data.shifted import sources as shift_sources
from arada.errors import UserError
from arada.evaluation import bootstrap, measure, predictions, uncertainty
from arada.evaluation.bootstrap import Resamples
from arada.runs import workdir as workdirs
from arada.runs.identity import json_types, ranking_sources, source_of, source_run
from arada.runs.ranks import Ranking
from arada.runtime import files, provenance
from arada.training import log_rows

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


def summarize(
    workdir: workdirs.Workdir,
    config: ml_collections.ConfigDict,
    absent: predictions.Absent | None = None,
    runs: Iterable[tuple[str, int]] | None = None,
) -> dict[str, Any]:
    """The metrics of every run with predictions, on the data sets that `config.evaluation` names.

    `absent` says why shifts and out-of-distribution sets could not be read. `runs` are pairs of name and seed, by
    default all runs of the workdir except sweeps.

    Subsets come from a ranking of the test split by an attack: on `config.ranking.source` for all methods, even if they
    were trained on other ranks, or on each run itself (`evaluation.subsets_of`). An ensemble whose members have their
    own rankings takes the first member's.
    """
    by_method: dict[str, list[int]] = {}
    for name, seed in workdir.runs() if runs is None else runs:
        run_identity = workdirs.stored(workdir.run(name, seed))["identity"]
        # Added predictions may lack validation images.
        clean = ("test",) if "added" in run_identity else ("test", "validation")
        if not all((workdir.predictions(name, seed) / f"{split}.npz").exists() for split in clean):
            continue
        predicted_by = workdirs.stored(workdir.predictions(name, seed))["identity"]
        if predicted_by | {"weights": None} != run_identity | {"weights": None}:
            logger.warning(
                "%s/seed_%d was trained again after its evaluation and is left out; delete %s and evaluate it again",
                name,
                seed,
                workdir.predictions(name, seed),
            )
            continue
        by_method.setdefault(name, []).append(seed)
    runs = [(name, seed) for name, seeds in by_method.items() for seed in seeds]
    source_of_run = {run: _source(workdir, config, *run) for run in runs}
    sources = list(dict.fromkeys(source_of_run.values())) or [source_of(config, config.seeds[0])]
    by_source = {source: _by_split(workdir.ranking(source)) for source in sources}
    ranking_of_run = {run: by_source[source].get("test") for run, source in source_of_run.items()}
    methods = _methods(workdir, config, by_method, ranking_of_run)
    return {
        "experiment": _experiment(workdir, config, by_method, by_source)
        | _evaluated_on(config.evaluation, methods, absent or predictions.Absent())
        | {
            "subsets_of": config.evaluation.subsets_of,
            "reference": config.evaluation.reference,
            "bootstrap": {"resamples": bootstrap.RESAMPLES, "level": bootstrap.LEVEL},
            "intervals": uncertainty.COVERS,
        },
        "methods": methods,
        "pairs": uncertainty.pairs(methods, measure.VARIANTS),
    }


def write(file: epath.Path, evaluation: dict[str, Any]) -> None:
    """Writes evaluation.json, unless it would differ from the file there by its time alone: a report on that file is
    then still the newest."""
    with contextlib.suppress(UserError, LookupError, TypeError):  # a missing file, or one of another format
        stored = files.read_json(file)
        same_time = evaluation["experiment"] | {"time": stored["experiment"]["time"]}
        if json_types(evaluation | {"experiment": same_time}) == stored:
            return
    files.write_json(file, evaluation)


def _source(workdir, config, name: str, seed: int) -> str:
    """The run, or the folder, that ranks a run's test images."""
    config = ml_collections.ConfigDict(config.to_dict())
    # Runs from before ensembles were added have no such fields.
    config.ensemble.update(workdirs.stored_config(workdir.run(name, seed)).get("ensemble", {"members": 1, "of": ""}))
    return ranking_sources(config, seed)[0]


def _by_split(directory) -> dict[str, Ranking]:
    """The rankings by an attack in a folder, by split; a control's ranks do not measure robustness."""
    paths = {name: directory / f"{name}.npz" for name in SPLITS}
    found = {name: Ranking.read(path, labelled=True) for name, path in paths.items() if path.exists()}
    return {name: ranking for name, ranking in found.items() if ranking.kind == "distance"}


def _methods(workdir, config, by_method, ranking_of_run) -> dict[str, Any]:
    """Every method with its runs, its intervals, and its difference from the reference."""
    if not by_method:
        return {}
    name, seeds = next(iter(by_method.items()))
    resamples = Resamples(predictions.read(workdir.predictions(name, seeds[0]), "test").example_id)
    measured = {}
    for name, seeds in by_method.items():
        directories = {seed: workdir.predictions(name, seed) for seed in seeds}
        by_seed = {seed: _ranking_of(workdir, config, name, seed, ranking_of_run[name, seed]) for seed in seeds}
        known = {seed: ranking for seed, ranking in by_seed.items() if ranking is not None}
        measured[name] = measure.measure(config, directories, known, resamples, workdir.metrics(name))
    sets = [name for severities in predictions.shifted_names(config.evaluation).values() for name in severities]
    reports = {name: report for name, (report, _) in measured.items()}
    sampled = {name: samples for name, (_, samples) in measured.items()}
    intervals = uncertainty.report(reports, sampled, config.evaluation.reference, sets)
    for name, report in reports.items():
        for seed, run in report["runs"].items():
            run |= _training(workdir.run(name, int(seed)))
        report["uncertainty"] = intervals[name]
    return reports


def _ranking_of(workdir, config, name: str, seed: int, by_source: Ranking | None) -> Ranking | None:
    """The ranking of the test split for a run's subsets; None if there is none."""
    if config.evaluation.subsets_of == "source":
        return by_source
    file = workdir.ranking(f"{name}/seed_{seed}") / "test.npz"
    return Ranking.read(file) if file.exists() else None


def _evaluated_on(evaluation, methods, absent: predictions.Absent) -> dict[str, Any]:
    """The shifts and out-of-distribution sets with predictions, and those without, with the reason."""
    runs = [run for method in methods.values() for run in method["runs"].values()]

    def parted(key: str, names, reasons: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        present = [name for name in names if any(name in run[key] for run in runs)]
        return present, {name: reasons.get(name, "not predicted") for name in names if name not in present}

    types, missing_types = parted("shift", shift_sources.types(evaluation), absent.shift)
    ood, missing_ood = parted("ood", evaluation.out_of_distribution, absent.ood)
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


def _experiment(workdir, config, by_method, by_source) -> dict[str, Any]:
    # The ranking's own settings, because it may be another workdir's; several sources have the same settings.
    folders = (workdir.ranking(source) for source in by_source)
    stored = [workdirs.stored(folder)["identity"]["ranking"] for folder in folders if (folder / "config.json").exists()]
    ranked = stored[0] if stored else {}
    by_split = {name: [splits[name] for splits in by_source.values() if name in splits] for name in SPLITS}
    by_split = {name: rankings for name, rankings in by_split.items() if rankings}
    agreements = (_agreement(workdir, source, ranked) for source in by_source)
    made_with = [
        workdirs.stored(workdir.run(name, seed))["made_with"] for name, seeds in by_method.items() for seed in seeds
    ]
    return {
        "dataset": config.data.get("name", config.data.source),
        "network": "-".join(str(config.model[key]) for key in ("name", "depth") if key in config.model),
        "num_classes": config.data.num_classes,
        "num_examples": {name: len(rankings[0]) for name, rankings in by_split.items()},
        "num_subsets": config.ranking.num_subsets,
        "num_bins": config.evaluation.num_bins,
        "variance_of": config.evaluation.variance_of,
        "ranking": {
            "source": config.ranking.source,
            "by": ranked.get("by", "attack"),
            "attack": ranked.get("attack"),
            "settings": ranked.get(ranked.get("attack"), {}),
            # The runs or the folder that `source` stands for; the rates below are means over them.
            "sources": list(by_source),
            "success_rate": {
                name: float(np.mean([ranking.success_rate for ranking in rankings]))
                for name, rankings in by_split.items()
            },
            "accuracy": {
                name: float(np.mean([ranking.correct.mean() for ranking in rankings]))
                for name, rankings in by_split.items()
            },
            # An agreement study has one network.
            "agreement": next(filter(None, agreements), {}),
        },
        # The source of the ranks of each method that was trained on ranks; with {seed}, each seed has its own.
        "ranked_by": _ranked_by(workdir, by_method),
        # From training, not from this evaluation.
        "commit": ", ".join(sorted({made["commit"] for made in made_with} - {""})),
        "hardware": ", ".join(sorted({_hardware(made) for made in made_with} - {""})),
        "versions": provenance.versions(),
        "time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _hardware(made_with: Mapping[str, Any]) -> str:
    return made_with["hardware"] + (", kernels by oneDNN" if made_with.get("cpu_kernels") == "onednn" else "")


def _ranked_by(workdir, by_method) -> dict[str, str]:
    configs = {name: workdirs.stored_config(workdir.run(name, seeds[0])) for name, seeds in by_method.items()}
    # The training of added predictions is unknown.
    trained = {name: config for name, config in configs.items() if "soft_labels" in config}
    return {name: config.ranking.source for name, config in trained.items() if config.soft_labels.num_subsets > 1}


def _agreement(workdir, source: str, ranked: dict) -> dict[str, Any]:
    """The result of `arada.agreement` on the source run for the attack of its ranking; {} if there is none."""
    run, attack = source_run(source), ranked.get("attack")
    file = workdir.run(*run) / "agreement" / "agreement.json" if run else None
    if not (file and attack in attacks.BY_NAME and file.exists()):
        return {}
    study = files.read_json(file)
    # Settings that are missing on either side have the attack's default; `refine_steps` belongs to the ranking.
    options = inspect.signature(attacks.BY_NAME[attack]).parameters.values()  # type: ignore[arg-type]
    default = {"refine_steps": 0} | {
        option.name: option.default for option in options if option.kind is option.KEYWORD_ONLY
    }
    rows = (row for row in study["candidates"] if row["attack"] == attack)
    found = next((row for row in rows if default | row["settings"] == default | ranked[attack]), None)
    return found["train"] | {"reference": study["reference"], "examples": study["examples"]} if found else {}


def _training(run_dir) -> dict[str, Any]:
    rows = [row for row in log_rows.logged(run_dir) if row.keys() >= {"epoch", "train/accuracy"}]
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
