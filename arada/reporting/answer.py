"""The first lines of a report: the comparison and its result, from the intervals of evaluation.json."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from arada.evaluation import uncertainty
from arada.reporting import figures, tables
from arada.reporting.figures import Panel
from arada.reporting.names import style

# The sentences are about the first of these methods that was run, else the first method that is not the reference.
SUBJECTS = ("ar_adals", "ar_adals_on_the_fly", "adals", "label_smoothing")
# The methods that the subject is compared with, besides the reference.
OPPONENTS = ("label_smoothing", "adals", "ar_adals_by_random")
ONE_SEED = (
    "There is no interval over seeds: at least two seeds are needed to see how much runs differ. The intervals here "
    "cover only the choice of test images."
)


class Value(NamedTuple):
    """A method's ECE x100 under shift, or on the test set: mean, interval over seeds (NaN if there is none), floor."""

    mean: float
    low: float
    high: float
    floor: float


def sentences(evaluation: dict) -> list[str]:
    """Two or three sentences, and a note if there is no interval over seeds."""
    methods, experiment = evaluation["methods"], evaluation["experiment"]
    if not methods:
        return ["Nothing has been evaluated."]
    labels = [style(name).label for name in methods]
    images = experiment["num_examples"].get("test")
    compared = (
        f"{_listed(labels)} on {experiment['dataset']} with {experiment['network'] or 'unknown networks'}, "
        f"{tables.seed_range(evaluation)} each{f', {images:,} test images' if images else ''}."
    )
    sentences = [f"Compared: {compared}" if len(labels) > 1 else f"Measured: {compared}"]
    part = "shift" if experiment["shift_types"] else "test"
    for variant, when in (("plain", ""), ("temperature", "after temperature scaling ")):
        if found := _comparison(evaluation, part, variant, when):
            sentences.append(found)
    if all(len(method["runs"]) < 2 for method in methods.values()):
        sentences.append(ONE_SEED)
    return sentences


def subject(evaluation: dict) -> str | None:
    """The name of the method that the sentences are about; None if there is nothing to compare."""
    methods, reference = evaluation["methods"], evaluation["experiment"]["reference"]
    others = [name for name in methods if name != reference]
    return next((name for name in SUBJECTS if name in others), others[0] if others else None)


def _comparison(evaluation: dict, part: str, variant: str, when: str) -> str:
    methods, reference, name = evaluation["methods"], evaluation["experiment"]["reference"], subject(evaluation)
    if name is None:
        return ""
    others = [other for other in dict.fromkeys((reference, *OPPONENTS)) if other in methods and other != name]
    differences: list[tuple[str, Sequence[float]]] = []
    for other in others:
        over_seeds = uncertainty.difference(methods[name], methods[other], "ece", part, variant)
        if over_seeds:
            differences.append((other, over_seeds[:3]))
        elif other == reference and (over_images := _over_images(methods[name], part, variant)):
            differences.append((other, over_images))
    if not differences:
        return ""
    value = _value(methods[name], part, variant)
    where = "under shift" if part == "shift" else "on the test set"
    begin = f"{when}{where}".strip()
    verdicts = [
        f"{_verdict(low, high)} that of {style(other).label} ({100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}])"
        for other, (mean, low, high) in differences
    ]
    images_alone = all(
        uncertainty.difference(methods[name], methods[other], "ece", part, variant) is None for other, _ in differences
    )
    covers = "the choice of test images" if images_alone else "over seeds"
    return (
        f"{begin[0].upper()}{begin[1:]} the ECE of {style(name).label}, {value.mean:.1f} x100 (floor "
        f"{value.floor:.1f}), {_listed(verdicts)}; differences x100 with 95 % intervals, {covers}."
    )


def _over_images(method: dict, part: str, variant: str) -> Sequence[float] | None:
    if variant not in method["uncertainty"]:
        return None
    return method["uncertainty"][variant]["images"]["differences"].get(part, {}).get("ece")


def _verdict(low: float, high: float) -> str:
    if high < 0:
        return "is lower than"
    return "is higher than" if low > 0 else "is not distinguishable from"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _value(method: dict, part: str, variant: str) -> Value:
    errors, floors = (
        list(uncertainty.by_seed(method, metric, part, variant).values()) for metric in ("ece", "ece_floor")
    )
    if not errors:
        return Value(np.nan, np.nan, np.nan, np.nan)
    over_seeds = method["uncertainty"][variant]["seeds"]["intervals"].get(part, {}).get("ece", [np.nan] * 4)
    low, high = (100 * end for end in over_seeds[1:3])
    return Value(100 * float(np.mean(errors)), low, high, 100 * float(np.mean(floors)))


def panel(evaluation: dict) -> Panel | None:
    """The main figure: each method's ECE with its interval over seeds, as trained and after temperature scaling."""
    part = "shift" if evaluation["experiment"]["shift_types"] else "test"
    values = {
        name: {variant: _value(method, part, variant) for variant in ("plain", "temperature")}
        for name, method in evaluation["methods"].items()
    }
    values = {name: by_variant for name, by_variant in values.items() if np.isfinite(by_variant["plain"].mean)}
    if not values:
        return None
    where = "under shift" if part == "shift" else "on the test set"
    means = "; ".join(
        f"{style(name).label} {' and '.join(f'{x.mean:.1f}' for x in by_variant.values() if np.isfinite(x.mean))}"
        for name, by_variant in values.items()
    )
    described = f"ECE x100 {where}, as trained and after temperature scaling: {means}."
    height = 1.8 + 0.35 * len(values)
    return figures.panel("answer", f"ECE {where}", described, figures.answer, values, height=height)
