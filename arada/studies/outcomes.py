"""What a study looks at: one number of each run, found by its path in what the run's results hold.

A path such as "shift.generated.ece" leads through the dict of a run's metrics. What branches on the way (types of
shift, severities, out-of-distribution sets) is averaged, each branch alike. "calibrated.temperature." before it means
after temperature scaling on the validation set, and "test.ece - test.ece_floor" is a difference.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arada.evaluation.intervals import Interval, over_seeds, paired_over_seeds

_PATH = r"[\w/-]+(\.[\w/-]+)+"


def parse(text: str) -> list[str]:
    """The paths of an outcome: one, or two of which the second is taken off the first. Raises ValueError."""
    paths = text.split(" - ")
    if len(paths) > 2 or not all(re.fullmatch(_PATH, path) for path in paths):
        raise ValueError("an outcome is a path such as 'test.ece', or 'path - path'")
    return paths


def value(metrics: Mapping[str, Any], text: str) -> float | None:
    """The outcome `text` of one run's metrics; None where the run lacks it."""
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
    # The last key is a metric, before which there may be branches.
    branches = list(node.values()) if isinstance(node, Mapping) else node
    if len(keys) > 1 or not branches or isinstance(branches, int | float | str):
        raise KeyError(keys[0])
    return float(np.mean([_at(branch, keys) for branch in branches]))


def by_seed(runs: Mapping[int, Mapping[str, Any]], text: str) -> dict[int, float]:
    """The outcome of each run that has it."""
    found = {seed: value(run["metrics"], text) for seed, run in runs.items()}
    return {seed: of for seed, of in found.items() if of is not None}


def mean(runs: Mapping[int, Mapping[str, Any]], text: str) -> Interval | None:
    """The mean over seeds with its interval; None for fewer than two."""
    return over_seeds(by_seed(runs, text).values())


def difference(
    runs: Mapping[int, Mapping[str, Any]], reference: Mapping[int, Mapping[str, Any]], text: str
) -> Interval | None:
    """The paired difference from a reference over the seeds that both have; None for fewer than two."""
    return paired_over_seeds(by_seed(runs, text), by_seed(reference, text))
