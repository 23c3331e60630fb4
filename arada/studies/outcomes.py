"""The outcomes of a study: one number of each run, given by its path in the run's metrics.

A path such as "shift.generated.ece" leads through the dict of a run's metrics. Branches on the way (types of shift,
severities, out-of-distribution sets) are averaged with equal weights. A path that begins with "calibrated.temperature."
is after temperature scaling on the validation set, and "test.ece - test.ece_floor" is a difference.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arada.evaluation.intervals import Interval, over_seeds, paired_over_seeds

_PATH = r"[\w/-]+(\.[\w/-]+)+"


def parse(text: str) -> list[str]:
    """The paths of an outcome: one, or two, the second to be subtracted from the first. Raises ValueError."""
    paths = text.split(" - ")
    if len(paths) > 2 or not all(re.fullmatch(_PATH, path) for path in paths):
        raise ValueError("an outcome must be a path such as 'test.ece', or 'path - path'")
    return paths


def value(metrics: Mapping[str, Any], text: str) -> float | None:
    """The outcome `text` of one run's metrics; None if the run lacks it."""
    try:
        found = [_at(metrics, path.split(".")) for path in parse(text)]
    except (KeyError, TypeError):
        return None
    return found[0] - sum(found[1:])


def _at(node: Any, keys: Sequence[str]) -> float:
    if not keys:
        return float(node)
    if isinstance(node, Mapping) and keys[0] in node:
        return _at(node[keys[0]], keys[1:])
    # The last key names a metric; branches may come before it.
    branches = list(node.values()) if isinstance(node, Mapping) else node
    if len(keys) > 1 or not branches or isinstance(branches, int | float | str):
        raise KeyError(keys[0])
    return float(np.mean([_at(branch, keys) for branch in branches]))


def by_seed(runs: Mapping[int, Mapping[str, Any]], text: str) -> dict[int, float]:
    """The outcome of each run that has it."""
    values = {seed: value(run["metrics"], text) for seed, run in runs.items()}
    return {seed: number for seed, number in values.items() if number is not None}


def mean(runs: Mapping[int, Mapping[str, Any]], text: str) -> Interval | None:
    """The mean over seeds with its interval; None for fewer than two seeds."""
    return over_seeds(by_seed(runs, text).values())


def difference(
    runs: Mapping[int, Mapping[str, Any]], reference: Mapping[int, Mapping[str, Any]], text: str
) -> Interval | None:
    """The paired difference from a reference over the seeds that both have; None for fewer than two seeds."""
    return paired_over_seeds(by_seed(runs, text), by_seed(reference, text))
