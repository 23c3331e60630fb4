"""The paper's Figures 1 to 8 for whatever data set a workdir holds."""

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

# Those that Figures 2 and 3 compare, and Figure 4, which ranks on the fly.
COMPARED = ("vanilla", "label_smoothing", "ar_adals")
ON_THE_FLY = "ar_adals_on_the_fly"
SWEEP = "python -m arada.sweep --config=...:ar_adals --workdir=... --grid=figure_5"


def build(evaluation: dict, workdir: epath.Path) -> dict[int, Section]:
    """The figures by the paper's numbers."""
    of_evaluation = (_figure_1, _figure_2, _figure_3, _figure_4, _figure_5, _figure_6, _figure_7, _figure_8)
    return {number: figure(evaluation, workdir) for number, figure in enumerate(of_evaluation, start=1)}


def _figure_1(evaluation: dict, _) -> Section:
    method = evaluation["methods"].get("vanilla", {"runs": {}, "variance": None})
    drawn, missing = panels.levels_of("figure_1", {"vanilla": method}, ["vanilla"])
    errors = {"ECE": series.subset_series(method, "ece"), "variance": series.subset_variance(method)}
    two_seeds = {"variance": panels.TWO_SEEDS}
    missing += [f"{name} by robustness level{two_seeds.get(name, '')}" for name, of in errors.items() if not of]
    if errors := {name: values for name, values in errors.items() if values}:
        floor = series.subset_floor([method])
        draw = (figures.of_method, "vanilla", f"{', '.join(errors)} (x100)", errors, None, floor)
        title, described = " and ".join(errors), panels.by_level(errors) + panels.with_floor(floor)
        drawn.append(figures.panel("figure_1_errors", title, described, *draw))
    return Section(
        "figure_1",
        "Figure 1: vanilla training by adversarial robustness",
        "Where confidence (dashed) lies above accuracy (solid) the network is over-confident; in the paper it is so "
        "above all at low levels, and there ECE and variance are high, too.",
        _by_level(evaluation),
        drawn,
        missing,
    )


def _figure_2(evaluation: dict, _) -> Section:
    methods = evaluation["methods"]
    drawn, missing = panels.levels_of("figure_2", methods, COMPARED[1:])
    of_ece = functools.partial(series.subset_series, key="ece")
    debiased = functools.partial(series.subset_series, key="ece_debiased")
    of_quantities = (("ECE", of_ece), (panels.DEBIASED, debiased), ("variance", series.subset_variance))
    for quantity, values_of in of_quantities:
        more, absent = panels.compared_by_level("figure_2", methods, COMPARED, quantity, values_of)
        drawn, missing = drawn + more, missing + absent
    return Section(
        "figure_2",
        "Figure 2: label smoothing and AR-AdaLS by adversarial robustness",
        "The smaller the shaded gap, and the lower ECE and variance, the better; in the paper methods differ most at "
        "low levels.",
        _by_level(evaluation),
        drawn,
        missing,
    )


def _figure_3(evaluation: dict, _) -> Section:
    drawn, missing = panels.boxes("figure_3", "Variance under shift", evaluation, COMPARED, "variance")
    return Section(
        "figure_3",
        "Figure 3: stability under shift",
        "How much predictions change from one seed to another as images get more corrupted: low is good.",
        [definitions.boxes(evaluation), definitions.variance(evaluation)],
        drawn,
        missing,
    )


def _figure_4(evaluation: dict, workdir: epath.Path) -> Section:
    methods, experiment = evaluation["methods"], evaluation["experiment"]
    names = [*COMPARED[:2], ON_THE_FLY if ON_THE_FLY in methods else COMPARED[2]]
    drawn, missing = [], [f"{style(name).label} on foreign images" for name in names if name not in methods]
    for dataset in experiment["ood"]:
        of_methods = {
            name: values
            for name in names
            if name in methods
            and (values := series.entropies(workdir, name, list(methods[name]["runs"]), ood_name(dataset))) is not None
        }
        if not of_methods:
            continue
        means = ", ".join(f"{style(name).label} {values.mean():.2f}" for name, values in of_methods.items())
        described = f"Histogram of the predictive entropy on {dataset}. Means in nats: {means}."
        draw = (figures.entropies, of_methods, experiment["num_classes"])
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
        "A network that knows what it does not know has its images on the right; those on the left are sure of a class "
        "that is not in the picture.",
        [
            "Entropy of the predicted probabilities, in nats, of all seeds together; members of an ensemble are "
            "averaged first. The highest entropy is that of a uniform prediction.",
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
        "In the paper the error falls from R = 1 on and is level between 10 and 16.",
        [
            "R = 1 is AdaLS with the same learning rate alpha. Bars: one standard deviation over "
            f"{' or '.join(map(str, sorted(seeds))) or 'no'} seeds. The points of the paper's own figure are not "
            "known. A mean over shifts is over types and severities as in the first table.",
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
        for of, names in (("single models", SINGLE), ("ensembles", ENSEMBLES)):
            prefix = f"figure_6_{of.split()[0]}"
            more, absent = panels.boxes(prefix, f"{quantity}, {of}", evaluation, names, metric)
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
    for single, ensemble in zip(SINGLE, ENSEMBLES, strict=False):
        of = {"single": single, "ensemble": ensemble}
        there = {kind: methods[name] for kind, name in of.items() if name in methods}
        if there:
            pairs[single] = {
                kind: tuple(series.on_test(method, metric) for metric in ("accuracy", "confidence"))
                for kind, method in there.items()
            }
    if (of_ensemble := ENSEMBLES[-1]) in methods:
        means = tuple(series.on_test(methods[of_ensemble], metric) for metric in ("accuracy", "confidence"))
        pairs[of_ensemble] = {"ensemble": means}
    missing = [style(name).label for name in (*SINGLE, *ENSEMBLES) if name not in methods]
    said = "; ".join(
        f"{style(name).label}, {kind}: {100 * accuracy:.1f} and {100 * confidence:.1f}"
        for name, of in pairs.items()
        for kind, (accuracy, confidence) in of.items()
    )
    described = f"Accuracy and confidence in percent. {said}."
    draw = (figures.accuracy_and_confidence, pairs)
    drawn = [figures.panel("figure_7", "Clean test set", described, *draw)] if pairs else []
    return Section(
        "figure_7",
        "Figure 7: accuracy and confidence of single models and ensembles",
        "A circle above its square is over-confident. In the paper averaging brings vanilla's confidence down to its "
        "accuracy, and that of calibrated models below it.",
        ["Means over the clean test set and over seeds. Confidence: of the predicted class."],
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
        "Below the diagonal a method is over-confident, above it under-confident. The lower plot shows what share of "
        "the predictions each point stands for.",
        [definitions.reliability(evaluation, figures.FEW)],
        drawn,
        missing,
    )


def _by_level(evaluation: dict) -> list[str]:
    said = (definitions.levels, definitions.ece, definitions.floor, definitions.variance, definitions.spread)
    return [of(evaluation) for of in said]
