"""The sections of a report, in order: the paper's tables and figures by its numbers, and further ones."""

import numpy as np
from etils import epath

from arada import attacks
from arada.reporting import (
    answer,
    definitions,
    differences,
    figures,
    panels,
    paper_figures,
    paper_tables,
    series,
    tables,
)
from arada.reporting.figures import Panel
from arada.reporting.names import style
from arada.reporting.panels import Section
from arada.reporting.paper_tables import ENSEMBLES, SINGLE

__all__ = ["Section", "build"]


def only_external_predictions(evaluation: dict) -> bool:
    """Whether all predictions were made elsewhere: then nothing was trained or ranked here."""
    return evaluation["experiment"].get("shift_source") == "added"


def build(evaluation: dict, workdir: epath.Path) -> list[Section | tables.Table]:
    """Tables and sections in the order of the page; the paper's come in its own order."""
    table, figure = paper_tables.build(evaluation), paper_figures.build(evaluation, workdir)
    paper: tuple[Section | tables.Table, ...] = (
        *(figure[1], table[1], figure[2], table[2], table[3], figure[3], figure[4], figure[5], table[4]),
        *(figure[6], figure[7], table[5], figure[8]),
    )
    training = [_soft_labels(evaluation, workdir), _distances(evaluation, workdir)]
    if only_external_predictions(evaluation):
        paper, training = (), []
    return [
        *_answer(evaluation),
        tables.results(evaluation),
        *differences.build(evaluation),
        tables.calibrated(evaluation),
        *paper,
        tables.more_metrics(evaluation),
        tables.ece_by_severity(evaluation),
        tables.out_of_distribution(evaluation),
        *_others(evaluation, workdir),
        *training,
    ]


def _answer(evaluation: dict) -> list[Section]:
    """The main figure; an empty list if there is nothing to draw."""
    drawn = answer.panel(evaluation)
    seeds = any(len(method["runs"]) > 1 for method in evaluation["methods"].values())
    caption = "Further left is better." + seeds * " Bars: 95 % intervals over seeds."
    definition = [
        f"Temperature scaling is fitted on the validation set. Under shift: {tables.shift_mean(evaluation)}.",
        definitions.ece(evaluation),
        definitions.floor(evaluation),
    ]
    return [Section("answer", "At a glance", caption, definition, [drawn], [])] if drawn else []


def _others(evaluation: dict, workdir: epath.Path) -> list[Section]:
    """The methods that the paper's figures leave out, beside vanilla and AR-AdaLS; an empty list if there are none."""
    methods = evaluation["methods"]
    names = [name for name in methods if name not in SINGLE and name not in ENSEMBLES]
    if not names:
        return []
    heading = "Methods" if only_external_predictions(evaluation) else "Other methods"
    drawn, missing = panels.levels_of("levels", methods, names)
    levels = Section(
        "levels",
        f"{heading} by adversarial robustness",
        "As in Figures 1 and 2: a method is over-confident where confidence (dashed) lies above accuracy (solid).",
        [definitions.levels(evaluation), definitions.spread(evaluation)],
        drawn,
        missing,
    )
    sections = [] if only_external_predictions(evaluation) else [levels]
    # Each group is small enough for one picture.
    ranked = [name for name in names if name.startswith("ar_adals")]
    groups = (
        ("ways_of_ranking", "ways of ranking", ranked),
        ("others", "other methods", [name for name in names if name not in ranked]),
    )
    boxes: list[Panel] = []
    absent: list[str] = []
    diagrams: list[Panel] = []
    undrawn: list[str] = []
    for group, title, members in groups:
        if not members:
            continue
        members = [name for name in ("vanilla", "ar_adals") if name in methods] + members
        for metric, quantity in (("ece", "ECE"), ("accuracy", "Accuracy")):
            more, missing = panels.boxes(f"shift_{group}", f"{quantity}, {title}", evaluation, members, metric)
            boxes, absent = boxes + more, absent + missing
        title = f"{title[0].upper()}{title[1:]}"
        more, missing = panels.reliability(f"reliability_{group}", title, workdir, evaluation, members)
        diagrams, undrawn = diagrams + more, undrawn + missing
    sections.append(
        Section(
            "shift",
            f"{heading} under shift",
            "Images get more corrupted to the right: low and flat is good for ECE, high and flat for accuracy.",
            [definitions.boxes(evaluation), definitions.ece(evaluation)],
            boxes,
            absent,
        )
    )
    caption = "Below the diagonal a method is over-confident, above it under-confident."
    definition = [definitions.reliability(evaluation, figures.FEW)]
    sections.append(Section("reliability", f"Reliability of {heading.lower()}", caption, definition, diagrams, undrawn))
    return sections


def _soft_labels(evaluation: dict, workdir: epath.Path) -> Section:
    drawn, num_classes = [], evaluation["experiment"]["num_classes"]
    for name, method in evaluation["methods"].items():
        if logged := series.soft_labels(workdir, name, list(method["runs"])):
            last = ", ".join(f"{value:.3f}" for value in logged[1][-1])
            described = (
                f"Soft label of the correct class by epoch. In the last epoch, least robust level first: {last}."
            )
            draw = (figures.soft_labels, name, *logged)
            drawn.append(figures.panel(f"soft_labels_{panels.slug(name)}", style(name).label, described, *draw))
    return Section(
        "soft_labels",
        "Soft labels over training",
        "A level's soft label falls while its validation images show over-confidence, and rises while they show "
        f"under-confidence; 1 is the one-hot label, 1/{num_classes} a uniform label.",
        [
            "The probability of the correct class in the soft label during each epoch, before the epoch's update; mean "
            f"over {tables.seed_range(evaluation)}. AdaLS has one soft label for all images, AR-AdaLS one for each "
            "adversarial robustness level of the training set. After an epoch it changes by - alpha (confidence - "
            "accuracy), both measured on the validation images of the same level, and stays between "
            f"1/{num_classes} and 1."
        ],
        drawn,
        [] if drawn else ["methods that adapt their labels"],
    )


def _distances(evaluation: dict, workdir: epath.Path) -> Section:
    drawn, experiment = [], evaluation["experiment"]
    # Only the first of several is shown.
    source = experiment["ranking"]["sources"][0]
    for split, distance in series.distances(workdir, source).items():
        # The file's subsets may have another number.
        subset = attacks.equal_subsets(distance, min(experiment["num_subsets"], len(distance)))
        finite = distance[np.isfinite(distance)]
        failed = f"{len(distance) - len(finite)} of {len(distance)} images have no adversarial example"
        median = f"median {np.median(finite):.3f}" if len(finite) else "none found"
        draw = (figures.distances, distance, subset)
        described = f"Histogram of L2 distances, {median}; {failed}."
        drawn.append(figures.panel(f"distances_{split}", f"{split[0].upper()}{split[1:]} set", described, *draw))
    return Section(
        "distances",
        "Distance to the nearest adversarial example",
        "How small a change of the image fools the network; dotted lines separate robustness levels.",
        [
            f"L2 norm of the smallest adversarial perturbation that the attack on {source} found, with pixels in "
            "[0, 1]. An image without an adversarial example counts as most robust and is not shown."
        ],
        drawn,
        [] if drawn else ["ranking by an attack"],
    )
