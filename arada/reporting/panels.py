"""Sections of a report, and the pictures that more than one of them has."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from arada.reporting import figures, series
from arada.reporting.figures import Panel
from arada.reporting.names import style


class Section(NamedTuple):
    """Pictures under a heading: `caption` says what to see, `definition` holds paragraphs shown on demand, `missing`
    says what was not run."""

    name: str
    title: str
    caption: str
    definition: list[str]
    panels: list[Panel]
    missing: list[str]


def slug(name: str) -> str:
    """A method's name as part of a file's."""
    return re.sub(r"\W", "_", name)


def levels_of(prefix: str, methods: dict, names: Sequence[str]) -> tuple[list[Panel], list[str]]:
    """Accuracy and confidence by robustness level of each of `names`, on axes of one scale, and what is missing."""
    of = {name: _accuracy_and_confidence(methods[name]) for name in names if name in methods}
    missing = [f"{style(name).label} by robustness level" for name in names if not of.get(name)]
    if not (lines_of := {name: lines for name, lines in of.items() if lines}):
        return [], missing
    ends = [np.nanmin(mean - np.nan_to_num(spread)) for lines in lines_of.values() for mean, spread in lines.values()]
    limits = max(0, 10 * np.floor(10 * min(ends))), 102
    drawn = []
    for name, lines in lines_of.items():
        draw = (figures.of_method, name, "accuracy, confidence (%)", lines, limits)
        drawn.append(figures.panel(f"{prefix}_{slug(name)}", style(name).label, by_level(lines), *draw))
    return drawn, missing


def _accuracy_and_confidence(method: dict) -> dict[str, tuple] | None:
    found = {key: series.subset_series(method, key) for key in ("accuracy", "confidence")}
    lines = {key: series for key, series in found.items() if series}
    return lines if len(lines) == len(found) else None


def compared_by_level(
    prefix: str, methods: dict, names: Sequence[str], quantity: str, values_of: Callable[[dict], tuple | None]
) -> tuple[list[Panel], list[str]]:
    """One quantity x100 of several methods by robustness level, and what is missing; an ECE with its floor's band."""
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
    """The band of a floor in words."""
    if not floor:
        return ""
    mean, p95 = (100 * of for of in floor)
    return (
        f" Perfectly calibrated networks have {mean[0]:.1f} at level 1 and {mean[-1]:.1f} at level {len(mean)} on "
        f"average, 95 % of them at most {p95[0]:.1f} and {p95[-1]:.1f}."
    )


def by_level(lines: Mapping[str, tuple]) -> str:
    """Lines by robustness level in words."""
    ends = (
        f"{name} {100 * mean[0]:.1f} at level 1 and {100 * mean[-1]:.1f} at level {len(mean)}"
        for name, (mean, _) in lines.items()
    )
    return f"Lines from the least to the most robust level, values x100: {'; '.join(ends)}."


DEBIASED = "ECE, debiased"
TWO_SEEDS = " (it takes two seeds or more)"
UNITS = {"ece": ("ECE", "x100"), "accuracy": ("accuracy", "%"), "variance": ("variance", "x100")}


def boxes(
    prefix: str, title: str, evaluation: dict, names: Sequence[str], metric: str
) -> tuple[list[Panel], list[str]]:
    """A metric of several methods as box plots over types of shift, and what is missing."""
    methods, (quantity, unit) = evaluation["methods"], UNITS[metric]
    values = {
        name: of
        for name in names
        if name in methods and (of := series.shift_by_type(methods[name], metric)) is not None
    }
    if not values:
        what = ", ".join(style(name).label for name in names)
        return [], [f"{quantity} under shift of {what}" + (TWO_SEEDS if metric == "variance" else "")]
    severities = evaluation["experiment"]["shift_severities"]
    clean = {name: series.on_test(methods[name], metric) for name in values}
    worst = ", ".join(f"{style(name).label} {_median(100 * of[:, -1]):.1f}" for name, of in values.items())
    described = f"Box plot over types of shift, by severity. Medians ({unit}) at severity {severities[-1]}: {worst}."
    draw = (figures.by_severity, f"{quantity} ({unit})", severities, values, clean, metric != "accuracy")
    return [figures.panel(f"{prefix}_{metric}", title, described, *draw, methods=len(values))], []


def reliability(
    name: str, title: str, workdir: epath.Path, evaluation: dict, names: Sequence[str]
) -> tuple[list[Panel], list[str]]:
    """The reliability diagram of several methods, and what is missing."""
    methods, num_bins = evaluation["methods"], evaluation["experiment"]["num_bins"]
    of = {of: series.reliability(workdir, of, list(methods[of]["runs"]), num_bins) for of in names if of in methods}
    missing = [f"test predictions of {style(of_name).label}" for of_name in names if not of.get(of_name)]
    if not (bins := {of_name: pooled for of_name, pooled in of.items() if pooled}):
        return [], missing
    means = "; ".join(
        f"{style(of_name).label} {_pooled(count, confidence):.1f} and {_pooled(count, accuracy):.1f}"
        for of_name, (count, confidence, accuracy) in bins.items()
    )
    described = (
        "Accuracy against confidence by bin, and below it the share of predictions in each bin. "
        f"Mean confidence and accuracy in percent: {means}."
    )
    return [figures.panel(name, title, described, figures.reliability, bins, height=4.6, methods=len(bins))], missing


def _median(values: np.ndarray) -> float:
    present = values[np.isfinite(values)]
    return float(np.median(present)) if len(present) else np.nan


def _pooled(count: np.ndarray, means: np.ndarray) -> float:
    return float(100 * np.nansum(count * means) / count.sum())
