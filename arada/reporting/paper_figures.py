"""The paper's Figures 1 to 8 for the data set of a workdir."""

import functools

import numpy as np
from etils import epath

from arada.evaluation.predictions import ood_name
from arada.reporting import definitions, figures, panels, series
from arada.reporting.figures import Panel
from arada.reporting.names import style
from arada.reporting.panels import Section
from arada.reporting.paper_tables import ENSEMBLES, SINGLE
from arada.reporting.tables import mean_and_deviation

# The methods of Figures 2 to 4; Figure 4 takes the ranking on the fly in place of the last.
COMPARED = ("vanilla", "label_smoothing", "ar_adals")
ON_THE_FLY = "ar_adals_on_the_fly"
SWEEP = "python -m arada.sweep --config=...:ar_adals --workdir=... --grid=figure_5"


def build(evaluation: dict, workdir: epath.Path) -> dict[int, Section]:
    """The figures by the paper's numbers."""
    builders = (_figure_1, _figure_2, _figure_3, _figure_4, _figure_5, _figure_6, _figure_7, _figure_8)
    return {number: builder(evaluation, workdir) for number, builder in enumerate(builders, start=1)}


def _figure_1(evaluation: dict, _) -> Section:
    method = evaluation["methods"].get("vanilla", {"runs": {}, "variance": None})
    drawn, missing = panels.levels_of("figure_1", {"vanilla": method}, ["vanilla"])
    errors = {"ECE": series.subset_series(method, "ece"), "variance": series.subset_variance(method)}
    two_seeds = {"variance": panels.TWO_SEEDS}
    missing += [f"{name} by robustness level{two_seeds.get(name, '')}" for name in errors if not errors[name]]
    if errors := {name: values for name, values in errors.items() if values}:
        floor = series.subset_floor([method])
        draw = (figures.method_by_subset, "vanilla", f"{', '.join(errors)} (x100)", errors, None, floor)
        title, described = " and ".join(errors), panels.by_level(errors) + panels.with_floor(floor)
        drawn.append(figures.panel("figure_1_errors", title, described, *draw))
    return Section(
        "figure_1",
        "Figure 1: vanilla training by adversarial robustness",
        "The network is over-confident where confidence (dashed) lies above accuracy (solid). In the paper this "
        "happens mostly at low levels, where ECE and variance are high, too.",
        _by_level(evaluation),
        drawn,
        missing,
    )


def _figure_2(evaluation: dict, _) -> Section:
    methods = evaluation["methods"]
    drawn, missing = panels.levels_of("figure_2", methods, COMPARED[1:])
    ece = functools.partial(series.subset_series, key="ece")
    debiased = functools.partial(series.subset_series, key="ece_debiased")
    quantities = (("ECE", ece), (panels.DEBIASED, debiased), ("variance", series.subset_variance))
    for quantity, values_of in quantities:
        more, absent = panels.compared_by_level("figure_2", methods, COMPARED, quantity, values_of)
        drawn, missing = drawn + more, missing + absent
    return Section(
        "figure_2",
        "Figure 2: label smoothing and AR-AdaLS by adversarial robustness",
        "A smaller shaded gap, a lower ECE and a lower variance are better. In the paper methods differ most at low "
        "levels.",
        _by_level(evaluation),
        drawn,
        missing,
    )


def _figure_3(evaluation: dict, _) -> Section:
    drawn, missing = panels.boxes("figure_3", "Variance under shift", evaluation, COMPARED, "variance")
    return Section(
        "figure_3",
        "Figure 3: stability under shift",
        "How much predictions change between seeds as images get more corrupted: low is good.",
        [definitions.boxes(evaluation), definitions.variance(evaluation)],
        drawn,
        missing,
    )


def _figure_4(evaluation: dict, workdir: epath.Path) -> Section:
    methods, experiment = evaluation["methods"], evaluation["experiment"]
    names = [*COMPARED[:2], ON_THE_FLY if ON_THE_FLY in methods else COMPARED[2]]
    drawn = []
    missing = [f"{style(name).label} on out-of-distribution images" for name in names if name not in methods]
    for dataset in experiment["ood"]:
        by_method = {
            name: values
            for name in names
            if name in methods
            and (values := series.entropies(workdir, name, list(methods[name]["runs"]), ood_name(dataset))) is not None
        }
        if not by_method:
            continue
        means = ", ".join(f"{style(name).label} {values.mean():.2f}" for name, values in by_method.items())
        described = f"Histogram of the predictive entropy on {dataset}. Means in nats: {means}."
        draw = (figures.entropies, by_method, experiment["num_classes"])
        drawn.append(
            figures.panel(
                f"figure_4_{panels.slug(dataset)}",
                f"Trained on {experiment['dataset']}, tested on {dataset}",
                described,
                *draw,
            )
        )
    return Section(
        "figure_4",
        "Figure 4: entropy on out-of-distribution images",
        "High entropy (right) is good: the network is unsure about images of unknown classes. On the left it is sure "
        "of a class that is not in the picture.",
        [
            "Entropy of the predicted probabilities, in nats, of all seeds together; members of an ensemble are "
            "averaged first. A uniform prediction has the highest entropy.",
        ],
        drawn,
        missing if drawn else ["out-of-distribution images", *missing],
    )


def _figure_5(evaluation: dict, workdir: epath.Path) -> Section:
    drawn, seeds = [], set()
    for method, points in series.sensitivity(workdir).items():
        lines = {}
        for key, name in (("ece", "clean test set"), ("ece_under_shift", "under shift")):
            values = [[np.nan if x is None else x for x in point[key]] for point in points.values()]
            if np.isfinite(values).any():
                lines[name] = mean_and_deviation(values, axis=1)
        seeds.add(len(next(iter(points.values()))["ece"]))
        ends = "; ".join(f"{name} {_ends(list(points), mean)}" for name, (mean, _) in lines.items())
        described = f"ECE x100 by the number of subsets: {ends}."
        draw = (figures.sensitivity, list(points), lines)
        drawn.append(figures.panel(f"figure_5_{panels.slug(method)}", style(method).label, described, *draw))
    return Section(
        "figure_5",
        "Figure 5: sensitivity to the number of subsets",
        "In the paper the error falls from R = 1 and is flat between 10 and 16.",
        [
            "R = 1 is AdaLS with the same learning rate alpha. Bars: one standard deviation over "
            f"{' or '.join(map(str, sorted(seeds))) or 'no'} seeds. The paper does not list the points of its figure. "
            "Means under shift are over the types and severities of the first table.",
            definitions.ece(evaluation),
        ],
        drawn,
        [] if drawn else [f"AR-AdaLS with several R: {SWEEP}"],
    )


def _ends(num_subsets: list[int], mean: np.ndarray) -> str:
    ends = np.flatnonzero(np.isfinite(mean))[[0, -1]]
    return " and ".join(f"{100 * mean[at]:.1f} at R = {num_subsets[at]}" for at in ends)


def _figure_6(evaluation: dict, _) -> Section:
    drawn: list[Panel] = []
    missing: list[str] = []
    for metric, quantity in (("ece", "ECE"), ("accuracy", "Accuracy")):
        for group, names in (("single models", SINGLE), ("ensembles", ENSEMBLES)):
            prefix = f"figure_6_{group.split()[0]}"
            more, absent = panels.boxes(prefix, f"{quantity}, {group}", evaluation, names, metric)
            drawn, missing = drawn + more, missing + absent
    return Section(
        "figure_6",
        "Figure 6: single models and ensembles under shift",
        "Images get more corrupted to the right: low and flat is good for ECE, high and flat for accuracy.",
        [definitions.boxes(evaluation), definitions.ece(evaluation)],
        drawn,
        missing,
    )


def _figure_7(evaluation: dict, _) -> Section:
    methods, pairs = evaluation["methods"], {}
    names = [{"single": single, "ensemble": ensemble} for single, ensemble in zip(SINGLE, ENSEMBLES, strict=False)]
    for by_kind in [*names, {"ensemble": ENSEMBLES[-1]}]:
        means = {
            kind: tuple(series.on_test(methods[name], metric) for metric in ("accuracy", "confidence"))
            for kind, name in by_kind.items()
            if name in methods
        }
        if means:
            pairs[next(iter(by_kind.values()))] = means
    missing = [style(name).label for name in (*SINGLE, *ENSEMBLES) if name not in methods]
    listed = "; ".join(
        f"{style(name).label}, {kind}: {100 * accuracy:.1f} and {100 * confidence:.1f}"
        for name, means in pairs.items()
        for kind, (accuracy, confidence) in means.items()
    )
    described = f"Accuracy and confidence in percent. {listed}."
    draw = (figures.accuracy_and_confidence, pairs)
    drawn = [figures.panel("figure_7", "Clean test set", described, *draw)] if pairs else []
    return Section(
        "figure_7",
        "Figure 7: accuracy and confidence of single models and ensembles",
        "A circle above its square means over-confidence. In the paper averaging lowers vanilla's confidence to its "
        "accuracy, and the confidence of calibrated models below their accuracy.",
        ["Means over the clean test set and over seeds. Confidence: the probability of the predicted class."],
        drawn,
        missing,
    )


def _figure_8(evaluation: dict, workdir: epath.Path) -> Section:
    drawn: list[Panel] = []
    missing: list[str] = []
    for name in ("vanilla", "ar_adals"):
        names = [name, f"ensemble_{name}", *(ENSEMBLES[-1:] if name == "ar_adals" else ())]
        more, absent = panels.reliability(f"figure_8_{name}", style(name).label, workdir, evaluation, names)
        drawn, missing = drawn + more, missing + absent
    return Section(
        "figure_8",
        "Figure 8: reliability of single models and ensembles",
        "Below the diagonal a method is over-confident, above it under-confident. The lower plot shows each bin's "
        "share of the predictions.",
        [definitions.reliability(evaluation, figures.FEW)],
        drawn,
        missing,
    )


def _by_level(evaluation: dict) -> list[str]:
    paragraphs = (definitions.levels, definitions.ece, definitions.floor, definitions.variance, definitions.spread)
    return [paragraph(evaluation) for paragraph in paragraphs]
