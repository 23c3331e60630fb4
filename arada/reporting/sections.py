"""Which panels each section of a report has, and what was not run. The words around them are in page.html."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from arada.reporting import figures, series
from arada.reporting.figures import Panel
from arada.reporting.names import style

# The methods beside vanilla that the paper's figures compare: named as missing where they are.
OF_PAPER = ("label_smoothing", "ar_adals")


class Section(NamedTuple):
    """The pictures of a section and, in words, what is missing from it."""

    panels: list[Panel]
    missing: list[str]


def build(evaluation: dict, workdir: epath.Path) -> dict[str, Section]:
    """All sections by the names that page.html uses."""
    methods, experiment = evaluation["methods"], evaluation["experiment"]
    return {
        "vanilla": _vanilla(methods.get("vanilla") or {"runs": {}}),
        "methods": _methods(methods),
        "reliability": _reliability(methods, workdir, experiment.get("num_bins") or 15),
        "soft_labels": _soft_labels(methods, workdir),
        "shift": _shift(methods, experiment.get("shift_severities")),
        "distances": _distances(workdir, (experiment.get("ranking") or {}).get("source") or "vanilla/seed_0"),
    }


def _vanilla(method: dict) -> Section:
    """The paper's Figure 1."""
    gap = _accuracy_and_confidence("vanilla", method)
    errors = {"ECE": series.subset_series(method, "ece"), "variance": series.subset_variance(method)}
    missing = [_sentence(name) for name, values in {"Vanilla": gap, **errors}.items() if not values]
    panels = [gap] if gap else []
    if errors := {name: values for name, values in errors.items() if values}:
        draw = (figures.of_method, "vanilla", f"{', '.join(errors)} (x100)", errors)
        title = " and ".join(errors)
        panels.append(figures.panel("levels_vanilla_errors", title, _by_level(errors), *draw))
    return Section(panels, missing)


def _methods(methods: dict) -> Section:
    """The paper's Figure 2."""
    absent = [name for name in OF_PAPER if name not in methods]
    gaps = {name: _accuracy_and_confidence(name, methods[name]) for name in methods if name != "vanilla"}
    panels = [gap for gap in gaps.values() if gap]
    missing = [_sentence(style(name).label) for name in [*absent, *(name for name, gap in gaps.items() if not gap)]]
    for label, values_of in (("ECE", lambda of: series.subset_series(of, "ece")), ("variance", series.subset_variance)):
        lines = {name: values for name in methods if (values := values_of(methods[name]))}
        if lines:
            described = _by_level({style(name).label: values for name, values in lines.items()})
            draw = (figures.by_subset, f"{label} (x100)", lines)
            panels.append(
                figures.panel(
                    f"levels_{label.lower()}", f"{_capital(label)} by method", described, *draw, methods=len(lines)
                )
            )
        else:
            missing.append(_sentence(label))
    return Section(panels, missing)


def _reliability(methods: dict, workdir: epath.Path, num_bins: int) -> Section:
    bins = {name: series.reliability(workdir, name, list(of["runs"]), num_bins) for name, of in methods.items()}
    missing = [f"test predictions of {style(name).label}" for name, pooled in bins.items() if not pooled]
    if not (bins := {name: pooled for name, pooled in bins.items() if pooled}):
        return Section([], missing)
    means = "; ".join(
        f"{style(name).label} {_pooled(count, confidence):.1f} and {_pooled(count, accuracy):.1f}"
        for name, (count, confidence, accuracy) in bins.items()
    )
    described = (
        "Accuracy against confidence by bin, and below it the share of predictions in each bin. "
        f"Mean confidence and accuracy in percent: {means}."
    )
    draw = (figures.reliability, bins)
    size = {"height": 4.6, "methods": len(bins)}
    return Section([figures.panel("reliability", "Reliability on the test set", described, *draw, **size)], missing)


def _soft_labels(methods: dict, workdir: epath.Path) -> Section:
    panels = []
    for name, method in methods.items():
        if logged := series.soft_labels(workdir, name, list(method["runs"])):
            last = ", ".join(f"{value:.3f}" for value in logged[1][-1])
            described = f"Soft label of the correct class by epoch. At the last, least robust level first: {last}."
            draw = (figures.soft_labels, *logged)
            panels.append(figures.panel(f"soft_labels_{_slug(name)}", style(name).label, described, *draw))
    return Section(panels, [] if panels else ["methods that adapt their labels"])


def _shift(methods: dict, severities: list[int] | None) -> Section:
    """The paper's Figures 3 and 6."""
    panels, missing = [], []
    for metric, label, unit in (
        ("ece", "ECE", "x100"),
        ("accuracy", "accuracy", "%"),
        ("variance", "variance", "x100"),
    ):
        values = {name: of for name in methods if (of := series.shift_by_type(methods[name], metric)) is not None}
        if not values:
            missing.append(_sentence(label, "under shift"))
            continue
        severities = severities or list(range(1, next(iter(values.values())).shape[1] + 1))
        clean = {name: series.on_test(methods[name], metric) for name in values}
        worst = ", ".join(f"{style(name).label} {_median(100 * of[:, -1]):.1f}" for name, of in values.items())
        described = (
            f"Box plot over types of shift, by severity. Medians ({unit}) at severity {severities[-1]}: {worst}."
        )
        draw = (figures.by_severity, f"{label} ({unit})", severities, values, clean, metric != "accuracy")
        panels.append(
            figures.panel(f"shift_{metric}", f"{_capital(label)} under shift", described, *draw, methods=len(values))
        )
    return Section(panels, missing)


def _distances(workdir: epath.Path, source: str) -> Section:
    panels = []
    for split, arrays in series.distances(workdir, source).items():
        distance = arrays["distance"]
        finite = distance[np.isfinite(distance)]
        failed = f"{len(distance) - len(finite)} of {len(distance)} images have no adversarial example"
        median = f"median {np.median(finite):.3f}" if len(finite) else "none found"
        draw = (figures.distances, distance, arrays["subset"])
        described = f"Histogram of L2 distances, {median}; {failed}."
        panels.append(figures.panel(f"distances_{split}", f"{_capital(split)} set", described, *draw))
    return Section(panels, [] if panels else ["ranking"])


def _accuracy_and_confidence(name: str, method: dict) -> Panel | None:
    lines = {key: series.subset_series(method, key) for key in ("accuracy", "confidence")}
    if not all(lines.values()):
        return None
    draw = (figures.of_method, name, "accuracy, confidence (%)", lines, True)
    return figures.panel(f"levels_{_slug(name)}", style(name).label, _by_level(lines), *draw)


def _by_level(lines: Mapping[str, tuple]) -> str:
    ends = (
        f"{name} {100 * mean[0]:.1f} at level 1 and {100 * mean[-1]:.1f} at level {len(mean)}"
        for name, (mean, _) in lines.items()
    )
    return f"Lines from the least to the most robust level, values x100: {'; '.join(ends)}."


def _sentence(what: str, where: str = "by robustness level") -> str:
    return f"{what} {where}" + (" (it takes two seeds or more)" if what == "variance" else "")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _slug(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _median(values: np.ndarray) -> float:
    present = values[np.isfinite(values)]
    return float(np.median(present)) if len(present) else np.nan


def _pooled(count: np.ndarray, means: np.ndarray) -> float:
    return float(100 * np.nansum(count * means) / count.sum())
