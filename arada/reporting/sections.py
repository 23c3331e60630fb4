"""What a report shows, in order: tables and sections of figures, with the words around them and what was not run."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from arada.reporting import figures, series, tables
from arada.reporting.figures import Panel
from arada.reporting.names import style

# The methods beside vanilla that the paper's figures compare: named as missing where they are.
OF_PAPER = ("label_smoothing", "ar_adals")


class Section(NamedTuple):
    """Pictures under a heading: `caption` says what to see, `definition` holds paragraphs shown on demand, `missing`
    says what was not run."""

    name: str
    title: str
    caption: str
    definition: list[str]
    panels: list[Panel]
    missing: list[str]


class Drawn(NamedTuple):
    """What of a section depends on what was run."""

    panels: list[Panel]
    missing: list[str]


UNKNOWN = "not recorded"
VARIANCE_OF = {
    "predicted_class": "of the class that the mean over runs predicts",
    "true_class": "of the true class",
    "own_confidence": "of the class that each run itself predicts",
    "all_classes": "of every class, summed over classes",
}
CONTROLS = {
    "random": "random order (a control)",
    "confidence": "the order of the network's confidence (a control)",
}


def build(evaluation: dict, workdir: epath.Path) -> list[Section | tables.Table]:
    """Tables and sections in the order of the page."""
    methods, experiment = evaluation["methods"], evaluation["experiment"]
    source = (experiment.get("ranking") or {}).get("source") or "vanilla/seed_0"
    seeds = tables.seed_range(evaluation)
    num_bins, num_classes = (experiment.get(key, UNKNOWN) for key in ("num_bins", "num_classes"))
    ece = (
        f"ECE: |accuracy - confidence| in {num_bins} bins of equal width over the confidence, averaged with the bins' "
        "counts as weights. With few images it comes out too high even for a perfect network."
    )
    of = experiment.get("variance_of", UNKNOWN)
    variance = (
        f"Variance: that of the probability {VARIANCE_OF.get(of, of)}, over a method's seeds (n - 1 in the "
        "denominator), averaged over images."
    )
    by_level = [_levels(evaluation, source), ece, variance, _spread(seeds)]
    of_tables = (tables.ece_by_severity, tables.calibrated, tables.variance, tables.out_of_distribution)
    return [
        tables.results(evaluation),
        Section(
            "vanilla",
            "Vanilla training by adversarial robustness",
            "Where confidence (dashed) lies above accuracy (solid) the network is over-confident. In the paper's "
            "Figure 1 this happens at low levels, among images that are easily attacked; there ECE and variance are "
            "high, too.",
            by_level,
            *_vanilla(methods.get("vanilla") or {"runs": {}}),
        ),
        Section(
            "methods",
            "All methods by adversarial robustness",
            "The smaller the shaded gap, and the lower ECE and variance, the better. Compare the low levels: in the "
            "paper's Figure 2 methods differ most there.",
            by_level,
            *_methods(methods),
        ),
        Section(
            "reliability",
            "Reliability diagram",
            "Below the diagonal a method is over-confident, above it under-confident. The lower plot shows what share "
            "of the predictions each point stands for.",
            [
                f"Test predictions of all seeds pooled ({seeds}), in {num_bins} bins of equal width over the "
                "confidence. A point is the mean confidence and the accuracy of a bin; hollow points stand for fewer "
                f"than {figures.FEW} predictions and are not joined. The shares are on a logarithmic scale. Members of "
                "an ensemble are averaged first."
            ],
            *_reliability(methods, workdir, experiment.get("num_bins") or 15),
        ),
        Section(
            "soft_labels",
            "Soft labels over training",
            f"How much the labels of each level were softened: 1 is the one-hot label, 1/{num_classes} would be a "
            "uniform one. A level falls while the validation set shows over-confidence on it, and rises while it shows "
            "the opposite.",
            [
                "The probability that the soft label gives to the correct class, as logged at the end of each epoch; "
                f"mean over {seeds}, and over the members of an ensemble. AdaLS has one soft label for all images, "
                "AR-AdaLS one for each adversarial robustness level of the training set. After an epoch it changes by "
                "- alpha (confidence - accuracy), both measured on the validation images of the same level, and stays "
                f"between 1/{num_classes} and 1."
            ],
            *_soft_labels(methods, workdir),
        ),
        Section(
            "shift",
            "Under distributional shift",
            "Images get more corrupted to the right: low and flat is good for ECE and variance, high and flat for "
            "accuracy.",
            [
                f"Shift: {tables.shift_mean(evaluation)}. A box spans the quartiles over types, the marker is the "
                f"median, the whiskers end at the smallest and the largest type. Each type's value is the mean over "
                f"{seeds}; the variance is one value for all seeds together. “clean” is the test set itself.",
                ece,
                variance,
            ],
            *_shift(methods, experiment.get("shift_severities")),
        ),
        Section(
            "distances",
            "Distance to the nearest adversarial example",
            "How small a change of the image fools the network; dotted lines are the edges between robustness levels.",
            [
                "L2 norm of the smallest adversarial perturbation found, with pixels in [0, 1]. An image without an "
                "adversarial example counts as most robust and is not drawn."
            ],
            *_distances(workdir, source),
        ),
        *(make(evaluation) for make in of_tables),
    ]


def _levels(evaluation: dict, source: str) -> str:
    experiment = evaluation["experiment"]
    attacked = f"the order of their L2 distance to the nearest adversarial example of one network, that of {source}"
    order = CONTROLS.get((experiment.get("ranking") or {}).get("by"), attacked)
    return (
        f"Adversarial robustness level: the test images in {order}, cut into {experiment.get('num_subsets', UNKNOWN)} "
        f"subsets of equal size ({_images_per_level(evaluation)} images each). The same subsets serve all methods and "
        "seeds."
    )


def _images_per_level(evaluation: dict) -> str:
    runs = [run for method in evaluation["methods"].values() for run in method["runs"].values()]
    counts = {int(count) for run in runs for count in (run.get("subsets") or {}).get("count") or () if count}
    if not counts:
        return tables.NOT_RUN
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _spread(seeds: str) -> str:
    if seeds == "1 seed":
        return "One seed: no spread can be shown."
    return (
        f"Values are means over {seeds}. Bars and bands: ± one standard deviation over seeds (n - 1 in the "
        "denominator). The variance is one number for all seeds together and has none."
    )


def _vanilla(method: dict) -> Drawn:
    """The paper's Figure 1."""
    gap = _accuracy_and_confidence("vanilla", method)
    errors = {"ECE": series.subset_series(method, "ece"), "variance": series.subset_variance(method)}
    missing = [_sentence(name) for name, values in {"Vanilla": gap, **errors}.items() if not values]
    panels = [gap] if gap else []
    if errors := {name: values for name, values in errors.items() if values}:
        draw = (figures.of_method, "vanilla", f"{', '.join(errors)} (x100)", errors)
        title = " and ".join(errors)
        panels.append(figures.panel("levels_vanilla_errors", title, _by_level(errors), *draw))
    return Drawn(panels, missing)


def _methods(methods: dict) -> Drawn:
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
    return Drawn(panels, missing)


def _reliability(methods: dict, workdir: epath.Path, num_bins: int) -> Drawn:
    bins = {name: series.reliability(workdir, name, list(of["runs"]), num_bins) for name, of in methods.items()}
    missing = [f"test predictions of {style(name).label}" for name, pooled in bins.items() if not pooled]
    if not (bins := {name: pooled for name, pooled in bins.items() if pooled}):
        return Drawn([], missing)
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
    return Drawn([figures.panel("reliability", "Reliability on the test set", described, *draw, **size)], missing)


def _soft_labels(methods: dict, workdir: epath.Path) -> Drawn:
    panels = []
    for name, method in methods.items():
        if logged := series.soft_labels(workdir, name, list(method["runs"])):
            last = ", ".join(f"{value:.3f}" for value in logged[1][-1])
            described = f"Soft label of the correct class by epoch. At the last, least robust level first: {last}."
            draw = (figures.soft_labels, *logged)
            panels.append(figures.panel(f"soft_labels_{_slug(name)}", style(name).label, described, *draw))
    return Drawn(panels, [] if panels else ["methods that adapt their labels"])


def _shift(methods: dict, severities: list[int] | None) -> Drawn:
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
    return Drawn(panels, missing)


def _distances(workdir: epath.Path, source: str) -> Drawn:
    panels = []
    for split, arrays in series.distances(workdir, source).items():
        distance = arrays["distance"]
        finite = distance[np.isfinite(distance)]
        failed = f"{len(distance) - len(finite)} of {len(distance)} images have no adversarial example"
        median = f"median {np.median(finite):.3f}" if len(finite) else "none found"
        draw = (figures.distances, distance, arrays["subset"])
        described = f"Histogram of L2 distances, {median}; {failed}."
        panels.append(figures.panel(f"distances_{split}", f"{_capital(split)} set", described, *draw))
    return Drawn(panels, [] if panels else ["ranking"])


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
