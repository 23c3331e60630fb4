"""Sections of a report, and the panels that several sections share."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from arada.reporting import figures, series
from arada.reporting.figures import Panel
from arada.reporting.names import style


class Section(NamedTuple):
    """Panels under a heading: `caption` says what to look for, `definition` holds paragraphs shown on demand, `missing`
    lists what was not run."""

    name: str
    title: str
    caption: str
    definition: list[str]
    panels: list[Panel]
    missing: list[str]


def slug(name: str) -> str:
    """A method's name as part of a file's name."""
    return re.sub(r"\W", "_", name)


def levels_of(prefix: str, methods: dict, names: Sequence[str]) -> tuple[list[Panel], list[str]]:
    """Accuracy and confidence by robustness level: a panel for each of `names`, on one scale; and the missing ones."""
    lines_of = {name: lines for name in names if name in methods and (lines := _accuracy_and_confidence(methods[name]))}
    missing = [f"{style(name).label} by robustness level" for name in names if name not in lines_of]
    if not lines_of:
        return [], missing
    ends = [np.nanmin(mean - np.nan_to_num(spread)) for lines in lines_of.values() for mean, spread in lines.values()]
    limits = max(0, 10 * np.floor(10 * min(ends))), 102
    drawn = []
    for name, lines in lines_of.items():
        draw = (figures.method_by_subset, name, "accuracy, confidence (%)", lines, limits)
        drawn.append(figures.panel(f"{prefix}_{slug(name)}", style(name).label, by_level(lines), *draw))
    return drawn, missing


def _accuracy_and_confidence(method: dict) -> dict[str, tuple] | None:
    found = {key: series.subset_series(method, key) for key in ("accuracy", "confidence")}
    lines = {key: series for key, series in found.items() if series}
    return lines if len(lines) == len(found) else None


def compared_by_level(
    prefix: str, methods: dict, names: Sequence[str], quantity: str, values_of: Callable[[dict], tuple | None]
) -> tuple[list[Panel], list[str]]:
    """A quantity x100 of several methods by robustness level, and missing ones. An ECE has its floor as a band."""
    lines = {name: values for name in names if name in methods and (values := values_of(methods[name]))}
    if not lines:
        return [], [f"{quantity} by robustness level" + (TWO_SEEDS if quantity == "variance" else "")]
    described = by_level({style(name).label: values for name, values in lines.items()})
    title = f"{quantity[0].upper()}{quantity[1:]}"
    floor = series.subset_floor([methods[name] for name in lines]) if quantity == "ECE" else None
    draw = (figures.by_subset, f"{quantity} (x100)", lines, quantity != DEBIASED, floor)
    name = f"{prefix}_{slug(quantity.lower())}"
    return [figures.panel(name, title, described + with_floor(floor), *draw, methods=len(lines) + 1)], []


def with_floor(floor: tuple[np.ndarray, np.ndarray] | None) -> str:
    """The description of a floor's band."""
    if not floor:
        return ""
    mean, p95 = (100 * values for values in floor)
    return (
        f" Perfectly calibrated networks have {mean[0]:.1f} at level 1 and {mean[-1]:.1f} at level {len(mean)} on "
        f"average, 95 % of them at most {p95[0]:.1f} and {p95[-1]:.1f}."
    )


def by_level(lines: Mapping[str, tuple]) -> str:
    """The description of lines by robustness level."""
    ends = (
        f"{name} {100 * mean[0]:.1f} at level 1 and {100 * mean[-1]:.1f} at level {len(mean)}"
        for name, (mean, _) in lines.items()
    )
    return f"Lines from the least to the most robust level, values x100: {'; '.join(ends)}."


DEBIASED = "ECE, debiased"
TWO_SEEDS = " (needs at least two seeds)"
UNITS = {"ece": ("ECE", "x100"), "accuracy": ("accuracy", "%"), "variance": ("variance", "x100")}


def boxes(
    prefix: str, title: str, evaluation: dict, names: Sequence[str], metric: str
) -> tuple[list[Panel], list[str]]:
    """A metric of several methods as box plots over types of shift, and missing ones."""
    methods, (quantity, unit) = evaluation["methods"], UNITS[metric]
    values = {
        name: by_type
        for name in names
        if name in methods and (by_type := series.shift_by_type(methods[name], metric)) is not None
    }
    if not values:
        labels = ", ".join(style(name).label for name in names)
        return [], [f"{quantity} under shift of {labels}" + (TWO_SEEDS if metric == "variance" else "")]
    severities = evaluation["experiment"]["shift_severities"]
    clean = {name: series.on_test(methods[name], metric) for name in values}
    worst = ", ".join(f"{style(name).label} {_median(100 * by_type[:, -1]):.1f}" for name, by_type in values.items())
    described = f"Box plot over types of shift, by severity. Medians ({unit}) at severity {severities[-1]}: {worst}."
    draw = (figures.by_severity, f"{quantity} ({unit})", severities, values, clean, metric != "accuracy")
    return [figures.panel(f"{prefix}_{metric}", title, described, *draw, methods=len(values))], []


def reliability(
    name: str, title: str, workdir: epath.Path, evaluation: dict, names: Sequence[str]
) -> tuple[list[Panel], list[str]]:
    """The reliability diagram of several methods, and missing ones."""
    num_bins = evaluation["experiment"]["num_bins"]
    seeds = {method: list(evaluation["methods"][method]["runs"]) for method in names if method in evaluation["methods"]}
    bins = {
        method: pooled for method in seeds if (pooled := series.reliability(workdir, method, seeds[method], num_bins))
    }
    missing = [f"test predictions of {style(method).label}" for method in names if method not in bins]
    if not bins:
        return [], missing
    means = "; ".join(
        f"{style(method).label} {_mean_over_bins(count, confidence):.1f} and {_mean_over_bins(count, accuracy):.1f}"
        for method, (count, confidence, accuracy) in bins.items()
    )
    described = (
        "Accuracy against confidence by bin, and below it the share of predictions in each bin. "
        f"Mean confidence and accuracy in percent: {means}."
    )
    return [figures.panel(name, title, described, figures.reliability, bins, height=4.6, methods=len(bins))], missing


def _median(values: np.ndarray) -> float:
    present = values[np.isfinite(values)]
    return float(np.median(present)) if len(present) else np.nan


def _mean_over_bins(count: np.ndarray, means: np.ndarray) -> float:
    return float(100 * np.nansum(count * means) / count.sum())
