"""Predictions made elsewhere, by any framework: added to an experiment, or as an experiment of their own.

They are stored like the project's own predictions, so that tables and figures treat both alike. All files are read and
checked before anything is written.
"""

import dataclasses
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from arada.data.shifted import sources as shift_sources
from arada.errors import UserError
from arada.evaluation import predictions, summary
from arada.runs import workdir as workdirs
from arada.runs.identity import RUN_NAME, json_types
from arada.runtime import files

# Name and seed.
Run = tuple[str, int]
# The images that predictions must match: their description in messages, and their arrays.
Stored = tuple[str, Mapping[str, np.ndarray]]
KINDS = ("logits", "probabilities")
# How far the sum of an image's probabilities may be from 1: rounding 1,000 of them to float16 changes it less.
SUM_TOLERANCE = 1e-2
# A probability of 0 has no logarithm.
_TINY = np.finfo(np.float32).tiny


@dataclasses.dataclass(frozen=True)
class Added:
    """Predictions on one data set: logits float32[N, Z], label int32[N], example_id int32[N] or None.

    `option` names their file in messages. Out-of-distribution sets have the label -1.
    """

    option: str
    logits: np.ndarray
    label: np.ndarray
    example_id: np.ndarray | None


def read(option: str, value: str, kind: str = "", *, labelled: bool = True) -> Added:
    """Reads FILE.npz with `logits` or `probabilities`, `label` and optionally `example_id`, or .npy files:
    LOGITS.npy,LABEL.npy[,ID.npy]. Raises UserError that begins with `option`."""
    argument = f"{option}={value}"
    arrays = _arrays(argument, value, labelled)
    found = [name for name in KINDS if name in arrays]
    if not found:
        raise UserError(f"{argument} has neither logits nor probabilities; it has {', '.join(arrays) or 'no arrays'}")
    name = kind if kind in found else found[0]
    logits = _logits(argument, arrays[name], kind, name)
    count, classes = logits.shape
    label = np.full(count, -1) if not labelled else _whole(argument, "label", arrays, count)
    if labelled and (label.min() < 0 or label.max() >= classes):
        raise UserError(
            f"{argument}: labels range from {label.min()} to {label.max()}, but there are {classes} classes"
        )
    ids = _whole(argument, "example_id", arrays, count) if "example_id" in arrays else None
    if ids is not None:
        values, counts = np.unique(ids, return_counts=True)
        if (counts > 1).any():
            raise UserError(
                f"{argument}: duplicate values in example_id: {np.sum(counts > 1)}, the first is "
                f"{values[counts > 1][0]}"
            )
        if values[0] < 0 or values[-1] >= 2**31:
            raise UserError(
                f"{argument}: example_id ranges from {values[0]} to {values[-1]}; ids must be at least 0 and below 2^31"
            )
    return Added(argument, logits, label.astype(np.int32), None if ids is None else ids.astype(np.int32))


def _arrays(argument: str, value: str, labelled: bool) -> dict[str, np.ndarray]:
    paths = [files.absolute(path) for path in value.split(",")]
    names = ("logits", "label", "example_id") if labelled else ("logits",)
    is_npz = len(paths) == 1 and paths[0].suffix != ".npy"
    if not is_npz and (any(path.suffix != ".npy" for path in paths) or not len(names[:2]) <= len(paths) <= len(names)):
        example = "LOGITS.npy,LABEL.npy" if labelled else "LOGITS.npy"
        raise UserError(f"{argument}: give one .npz file, or .npy files: {example}")
    for path in paths:
        if not path.exists():
            raise UserError(f"{argument}: {path} does not exist")
    try:
        if is_npz:
            return files.read_npz(paths[0])
        return {name: files.read_npy(path) for name, path in zip(names, paths, strict=False)}
    except UserError as error:
        reason = str(error).partition(";")[0]
        raise UserError(f"{argument}: {reason}; save arrays of numbers with numpy.savez or numpy.save") from None


def _logits(argument: str, values: np.ndarray, kind: str, name: str) -> np.ndarray:
    """The logits float32[N, Z] of values of `kind`; without a kind, their name decides."""
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not len(values) or values.shape[1] < 2:
        raise UserError(
            f"{argument}: predictions must be numbers [images, classes], not {values.dtype} {list(values.shape)}"
        )
    values = values.astype(np.float32)
    invalid = np.flatnonzero(~np.isfinite(values).all(axis=-1))
    if len(invalid):
        raise UserError(
            f"{argument}: {len(invalid)} of {len(values)} images have NaN or infinity, the first in row {invalid[0]}"
        )
    sums = values.sum(axis=-1, dtype=np.float64)
    outside = np.any((values < 0) | (values > 1), axis=-1)
    wrong = np.flatnonzero(outside | (np.abs(sums - 1) > SUM_TOLERANCE))
    if not kind and name == "logits" and not len(wrong):
        raise UserError(
            f"{argument}: these logits look like probabilities: they lie in [0, 1] and sum to 1 for every image; add "
            f"--kind=probabilities, or --kind=logits if they are logits"
        )
    if (kind or name) == "probabilities":
        if len(wrong):
            raise UserError(
                f"{argument}: probabilities must lie in [0, 1] and sum to 1, but {len(wrong)} of {len(values)} images "
                f"differ; row {wrong[0]} sums to {sums[wrong[0]]:.4g}. Add --kind=logits if they are logits"
            )
        return np.log(np.maximum(values, _TINY))
    return values


def _whole(argument: str, name: str, arrays: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"{argument} has no {name}; it has {', '.join(arrays)}")
    values = arrays[name]
    if values.dtype.kind not in "iu" or values.shape != (count,):
        raise UserError(f"{argument}: {name} is {values.dtype} {list(values.shape)}; it must be {count} whole numbers")
    return values.astype(np.int64)


def add(
    workdir: workdirs.Workdir,
    name: str,
    seed: int,
    clean: Mapping[str, Added],
    shifted: Mapping[tuple[str, int], Added],
    ood: Mapping[str, Added],
    *,
    dataset: str = "",
    reference: str = "",
) -> ml_collections.ConfigDict:
    """Stores predictions of the run `name`/seed_`seed`; returns the config for the summary of the workdir.

    Args:
      workdir: an evaluated experiment with the same test images; or a new folder, or one with added predictions only.
      clean: "test", and optionally "validation".
      shifted: by type and severity.
      ood: by name, on other images.
      dataset: the data's name in a new report.
      reference: the name that others are compared with; "" for the workdir's reference, or the first added name.
    """
    if not re.fullmatch(RUN_NAME, name):
        raise UserError(f"--name={name!r} must be a folder's name: letters, digits and any of _ . + -")
    begun, trained = _runs(workdir)
    _check_name(workdir, name, seed, {run[0] for run in trained}, begun, "validation" in clean)
    classes = clean["test"].logits.shape[1]
    config = _config(workdir, begun, trained, name, classes, dataset)
    _set_evaluation(config.evaluation, shifted, ood, alone=not trained)
    if reference:
        _set_reference(config.evaluation, reference, {name, *(run[0] for run in begun)})
    arrays = {split: _joined(added, _stored(workdir, begun, split), classes) for split, added in clean.items()}
    for shift, added in shifted.items():
        stored_name = shift_sources.stored_name(config.evaluation, *shift)
        # The experiment may have shifted only some of its test images.
        stored = _stored(workdir, begun, stored_name) or ("the test set", arrays["test"])
        arrays[stored_name] = _joined(added, stored, classes)
    # Out-of-distribution images are not paired.
    arrays |= {predictions.ood_name(other): _joined(added, None, classes) for other, added in ood.items()}
    options = [added.option for sets in (clean, shifted, ood) for added in sets.values()]
    _store(workdir, name, seed, config, arrays, options)
    return config


def compared_with(workdir: workdirs.Workdir, reference: str) -> ml_collections.ConfigDict:
    """The config for the summary of a workdir, with differences from `reference`. Raises UserError."""
    begun, trained = _runs(workdir)
    if not begun:
        raise UserError(f"--workdir={workdir.path} holds no runs; add predictions with --name and --test")
    config = _config(workdir, begun, trained, begun[0][0], 0, "")
    _set_reference(config.evaluation, reference, {run[0] for run in begun})
    return config


def _runs(workdir: workdirs.Workdir) -> tuple[list[Run], list[Run]]:
    """All runs of a workdir, and the runs that were trained there or imported."""
    begun = workdir.runs()
    return begun, [run for run in begun if "added" not in workdirs.stored(workdir.run(*run))["identity"]]


def _set_reference(evaluation: ml_collections.ConfigDict, reference: str, names: set[str]) -> None:
    if reference not in names:
        raise UserError(f"--reference={reference} is unknown; choose one of {', '.join(sorted(names))}")
    evaluation.reference = reference


def _store(workdir, name: str, seed: int, config, arrays: Mapping[str, Mapping], options: Sequence[str]) -> None:
    digest = 0
    for dataset in sorted(arrays):
        digest = zlib.crc32(arrays[dataset]["logits"].tobytes(), digest)
    shared = json_types({"data": config.data, "model": config.model})
    identity = shared | {"added": {"crc32": digest, "files": list(options)}, "seed": seed}
    directory, made = workdir.predictions(name, seed), {"commit": "", "hardware": "", "versions": {}}
    workdir.create()
    if directory.exists():  # from a killed process
        directory.rmtree()
    for dataset, stored in arrays.items():
        files.write_npz(directory / f"{dataset}.npz", stored)
    # The run's record comes last: predictions without it are ignored.
    for folder in (directory, workdir.run(name, seed)):
        files.write_json(
            folder / "config.json", {"identity": identity, "config": json_types(config), "made_with": made}
        )


def summarize(workdir: workdirs.Workdir, config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Writes evaluation.json on all runs of the workdir, and returns it."""
    before = files.read_json(workdir.evaluation)["experiment"] if workdir.evaluation.exists() else {}
    absent = predictions.Absent(before.get("shift_missing", {}), before.get("ood_missing", {}))
    evaluation = summary.summarize(workdir, config, absent)
    summary.write(workdir.evaluation, evaluation)
    return evaluation


def _check_name(
    workdir: workdirs.Workdir, name: str, seed: int, trained: set[str], begun: Sequence[Run], has_validation: bool
) -> None:
    if seed < 0:
        raise UserError(f"--seed={seed} must be 0 or above")
    if name in trained:
        raise UserError(f"--name={name} is a method that was trained in {workdir.path}; choose another name")
    if (name, seed) in begun:
        raise UserError(
            f"--name={name} --seed={seed} exists already; choose another name or seed, or delete "
            f"{workdir.run(name, seed)} and {workdir.predictions(name, seed)}"
        )
    for other in (run for run in begun if run[0] == name):
        if (workdir.predictions(*other) / "validation.npz").exists() != has_validation:
            raise UserError(
                f"--validation is {'given' if has_validation else 'not given'}, unlike for {name}/seed_{other[1]}; "
                f"give it for all seeds of a name, or for none"
            )


def _config(
    workdir: workdirs.Workdir, begun: Sequence[Run], trained: Sequence[Run], name: str, classes: int, dataset: str
) -> ml_collections.ConfigDict:
    """The config of the workdir's last evaluation, or the config of a report on added predictions only."""
    evaluated = files.read_json(workdir.evaluation) if workdir.evaluation.exists() else {}
    if trained:
        in_report = [run for run in trained if run[0] in evaluated.get("methods", {})]
        if not in_report:
            raise UserError(f"--workdir={workdir.path} has runs that are not evaluated; run --stage=evaluate first")
        config = _as_evaluated(workdirs.stored_config(workdir.run(*in_report[0])), evaluated["experiment"])
    else:
        config = _minimal_config(name, classes, dataset or workdir.path.name)
        for before in (workdirs.stored_config(workdir.run(*run)) for run in begun):
            config.data, config.evaluation.severities = before.data, before.evaluation.severities
            for field in ("shifts", "out_of_distribution"):
                config.evaluation[field] = (*config.evaluation[field], *before.evaluation[field])
            config.evaluation.reference = evaluated.get("experiment", before.evaluation)["reference"]
    known = config.data.get("name", config.data.source)
    if begun and dataset and dataset != known:
        raise UserError(f"--dataset={dataset}, but the data of {workdir.path} are {known}; leave the option out")
    if classes and classes != config.data.num_classes:
        raise UserError(f"--test has {classes} classes, but {workdir.path} has {config.data.num_classes}")
    return config


def _as_evaluated(config: ml_collections.ConfigDict, experiment: dict) -> ml_collections.ConfigDict:
    """The config with the settings of evaluation.json."""
    config.ranking.update(
        source=experiment["ranking"].get("source", config.ranking.source), num_subsets=experiment["num_subsets"]
    )
    config.evaluation.update(
        num_bins=experiment["num_bins"],
        variance_of=experiment["variance_of"],
        shift_source=experiment["shift_source"],
        shifts=(*experiment["shift_types"], *experiment["shift_missing"]),
        severities=tuple(experiment["shift_severities"]),
        max_examples_per_shift=experiment["shift_max_examples"],
        crop_shifted=experiment["shift_cropped"],
        subsets_of=experiment["subsets_of"],
        reference=experiment["reference"],
        out_of_distribution=(*experiment["ood"], *experiment["ood_missing"]),
    )
    return config


def _minimal_config(reference: str, classes: int, dataset: str) -> ml_collections.ConfigDict:
    """The fields that a summary needs, for a workdir without an experiment."""
    return ml_collections.ConfigDict(
        {
            "data": {"source": "predictions", "name": dataset, "num_classes": classes},
            "model": {"name": "networks from elsewhere"},
            "seeds": (0,),
            "ensemble": {"members": 1, "of": "", "ranks": "shared"},
            "ranking": {"source": "vanilla/seed_0", "num_subsets": 10},
            "evaluation": {
                "num_bins": 15,
                "variance_of": "predicted_class",
                "shift_source": "added",
                "shifts": (),
                "severities": (),
                "max_examples_per_shift": 0,
                "crop_shifted": False,
                "store_shifted": "logits",
                "subsets_of": "source",
                "reference": reference,
                "out_of_distribution": (),
            },
        }
    )


def _set_evaluation(evaluation, shifted, ood, *, alone: bool) -> None:
    """Adds new shifts and out-of-distribution sets; beside an experiment, checks that it has them."""
    by_type: dict[str, set[int]] = {}
    for name, severity in shifted:
        if not re.fullmatch(RUN_NAME, name) or name in shift_sources.LISTS or severity < 1:
            raise UserError(
                f"--shifted {name}@{severity} must name one type, in one plain word, and a severity of 1 or above"
            )
        by_type.setdefault(name, set()).add(severity)
    for name in ood:
        if not re.fullmatch(rf"{RUN_NAME}(/{RUN_NAME})*", name):
            raise UserError(f"--ood {name}: the name must consist of letters, digits and any of _ . + - /")
    if not evaluation.severities and by_type:
        evaluation.severities = tuple(sorted(next(iter(by_type.values()))))
    types = shift_sources.types(evaluation)
    for name, severities in by_type.items():
        if not alone and name not in types:
            raise UserError(f"--shifted: the experiment has no shift {name!r}; it has {', '.join(types) or 'none'}")
        if severities != set(evaluation.severities):
            raise UserError(
                f"--shifted: {name} has severities {sorted(severities)}, but the report has "
                f"{sorted(evaluation.severities)}; give all of them, because means are over severities"
            )
    if unknown := [name for name in ood if not alone and name not in evaluation.out_of_distribution]:
        known = ", ".join(evaluation.out_of_distribution) or "none"
        raise UserError(f"--ood: the experiment has no out-of-distribution set {unknown[0]!r}; it has {known}")
    evaluation.shifts = tuple(dict.fromkeys((*types, *by_type)))
    evaluation.out_of_distribution = tuple(dict.fromkeys((*evaluation.out_of_distribution, *ood)))


def _stored(workdir: workdirs.Workdir, begun: Sequence[Run], name: str) -> Stored | None:
    """A data set of the workdir's first run that has it; None if no run has it."""
    file = next((file for run in begun if (file := workdir.predictions(*run) / f"{name}.npz").exists()), None)
    return file and (str(file), files.read_npz(file))


def _joined(added: Added, stored: Stored | None, classes: int) -> dict[str, np.ndarray]:
    """The arrays to store, by ascending id; their images must be the images of `stored`."""
    if added.logits.shape[1] != classes:
        raise UserError(f"{added.option} has {added.logits.shape[1]} classes, but --test has {classes}")
    source, images = stored or ("", None)
    ids = added.example_id
    if ids is None:
        ids = np.arange(len(added.label), dtype=np.int32)
        if images is not None and not np.array_equal(images["example_id"], ids):
            raise UserError(
                f"{added.option} has no example_id, which joins its images with those of {source}; save it, too"
            )
    order = np.argsort(ids)
    ids, label = ids[order], added.label[order]
    if images is not None:
        _check_same(added.option, source, ids, label, images)
    return {"example_id": ids, "label": label, "logits": added.logits[order][None]}


def _check_same(
    argument: str, source: str, ids: np.ndarray, label: np.ndarray, stored: Mapping[str, np.ndarray]
) -> None:
    unknown = np.setdiff1d(ids, stored["example_id"])
    if len(unknown):
        raise UserError(
            f"{argument}: {len(unknown)} of its {len(ids)} example_id are not in {source}, the first is {unknown[0]}"
        )
    missing = np.setdiff1d(stored["example_id"], ids)
    if len(missing):
        raise UserError(
            f"{argument} lacks {len(missing)} of the {len(stored['example_id'])} images of {source}, the first is "
            f"{missing[0]}"
        )
    expected = stored["label"][np.argsort(stored["example_id"])]
    wrong = np.flatnonzero(expected != label)
    if len(wrong):
        first = wrong[0]
        raise UserError(
            f"{argument}: labels of {len(wrong)} of {len(ids)} images contradict {source}; the first is example_id "
            f"{ids[first]}: {label[first]} here, {expected[first]} there"
        )
