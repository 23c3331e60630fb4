"""The intervals of evaluation.json: over seeds, and over the choice of test images.

An interval over seeds covers other training runs on these test images; an interval over images covers other test sets
with these runs. Differences are paired in both. A method after a calibrator is compared with the reference after the
same calibrator; the reference after a calibrator is compared with itself before it.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from arada.errors import UserError
from arada.evaluation import bootstrap, intervals
from arada.evaluation.intervals import Interval

PARTS = ("test", "shift")
# The metrics of all pairs of methods.
METRICS = bootstrap.METRICS
COVERS = {
    "seeds": "other training runs, on these test images: Student's t over seeds, differences paired by seed",
    "images": "the choice of test images, given these runs: basic bootstrap over images, differences paired by image",
}


def by_seed(
    method: Mapping[str, Any], metric: str, part: str = "test", variant: str = "plain", types: Collection[str] = ()
) -> dict[int, float]:
    """A metric of each run that has it; for "shift" the mean over all types, or over `types`."""
    found = {}
    for seed, run in method["runs"].items():
        if variant != "plain" and variant not in run["calibrated"]:
            continue
        run = run if variant == "plain" else run["calibrated"][variant]
        sets = [run["test"]]
        if part == "shift":
            if not run["shift"].keys() >= set(types):
                continue
            sets = [part for name, parts in run["shift"].items() if not types or name in types for part in parts]
        values = [metrics.get(metric) for metrics in sets]
        if values and None not in values:
            found[int(seed)] = float(np.mean(values))
    return found


def difference(
    method: Mapping[str, Any],
    reference: Mapping[str, Any],
    metric: str,
    part: str = "test",
    variant: str = "plain",
    reference_variant: str = "",
) -> Interval | None:
    """The paired difference over the seeds that both methods have; None for fewer than two.

    For "shift" it is over the types that all runs of both have. `reference_variant` is `variant` by default.
    """
    runs = [*method["runs"].values(), *reference["runs"].values()]
    types = set.intersection(*(set(run["shift"]) for run in runs)) if runs else set()
    if part == "shift" and not types:
        return None
    baseline = by_seed(reference, metric, part, reference_variant or variant, types)
    return intervals.paired_over_seeds(by_seed(method, metric, part, variant, types), baseline)


def compare(
    evaluation: Mapping[str, Any], method: str, reference: str, metric: str, part: str = "test", variant: str = "plain"
) -> Interval:
    """The `difference` of two methods of evaluation.json, by name. Raises UserError if there is no interval."""
    methods = evaluation["methods"]
    for name in (method, reference):
        if name not in methods:
            raise UserError(f"{name} is not in evaluation.json, which has {', '.join(methods)}; evaluate it first")
    found = difference(methods[method], methods[reference], metric, part, variant)
    if found is None:
        seeds = ({int(seed) for seed in methods[name]["runs"]} for name in (method, reference))
        shared = sorted(set.intersection(*seeds))
        raise UserError(
            f"an interval over seeds needs at least two seeds with {metric} ({part}); {method} and {reference} share "
            f"{', '.join(map(str, shared)) or 'none'}. Train and evaluate both with --config.seeds=0,1,2"
        )
    return found


def report(
    methods: Mapping[str, Mapping[str, Any]],
    sampled: Mapping[str, Mapping[str, bootstrap.Sampled]],
    reference: str,
    shifted: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """{method: {variant: {"seeds" or "images": {"intervals", "differences"}}}}; `shifted` are names of data sets."""
    return {
        name: {
            variant: {
                "seeds": over_seeds(methods, name, variant, reference),
                "images": _over_images(sampled, name, variant, reference, shifted),
            }
            for variant in by_variant
        }
        for name, by_variant in sampled.items()
    }


def _baseline(name: str, variant: str, reference: str) -> str | None:
    """The reference's variant that a method's variant is compared with; None for the plain reference itself."""
    if name != reference:
        return variant
    return None if variant == "plain" else "plain"


def over_seeds(methods: Mapping[str, Any], name: str, variant: str, reference: str) -> dict[str, Any]:
    """Intervals of a method's metrics, and of their differences from the reference, by part."""
    method, baseline = methods[name], _baseline(name, variant, reference)
    first = next(iter(method["runs"].values()))
    found: dict[str, dict[str, dict[str, Interval]]] = {"intervals": {}, "differences": {}}
    for part, metric in itertools.product(PARTS, first["test"]):
        if interval := intervals.over_seeds(by_seed(method, metric, part, variant).values()):
            found["intervals"].setdefault(part, {})[metric] = interval
        if reference in methods and baseline:
            paired = difference(method, methods[reference], metric, part, variant, baseline)
            if paired:
                found["differences"].setdefault(part, {})[metric] = paired
    return found


def _over_images(sampled, name: str, variant: str, reference: str, shifted: Sequence[str]) -> dict[str, Any]:
    method, baseline = sampled[name][variant], _baseline(name, variant, reference)
    parts = {"test": ["test"], "shift": [dataset for dataset in shifted if dataset in method.resampled]}
    compared = baseline in sampled.get(reference, ())
    return {
        "intervals": bootstrap.intervals(method, parts),
        "differences": bootstrap.differences(method, sampled[reference][baseline], parts) if compared else {},
    }


def pairs(methods: Mapping[str, Mapping[str, Any]], variants: Sequence[str]) -> dict[str, Any]:
    """{variant: {part: {metric: {method: {another: [difference, low, high, seeds]}}}}}, over seeds, each pair once."""
    found: dict[str, Any] = {}
    for variant, part, metric in itertools.product(variants, PARTS, METRICS):
        for name, other in itertools.combinations(methods, 2):
            if interval := difference(methods[other], methods[name], metric, part, variant):
                by_metric = found.setdefault(variant, {}).setdefault(part, {})
                by_metric.setdefault(metric, {}).setdefault(other, {})[name] = interval
    return found
