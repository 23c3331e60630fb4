"""Confidence intervals over seeds: how much of a number, or of a difference, is the luck of training.

Student's t interval over independent runs. A difference is taken within each seed, because two methods with the same
seed share their initial weights and data order. `bootstrap.py` has the intervals over test images.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate, the ends of its interval, and its number of seeds."""

    estimate: float
    low: float
    high: float
    seeds: int


def over_seeds(values: Iterable[float], level: float = LEVEL) -> Interval | None:
    """The mean of one value a seed with its t interval; None for fewer than two seeds, which have no spread.

    A NaN among the values makes all three numbers NaN. Raises ValueError unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be a fraction between 0 and 1, such as 0.95, not {level}")
    values = np.asarray(list(values), np.float64)
    if len(values) < 2:
        return None
    half = special.stdtrit(len(values) - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(len(values))
    mean = values.mean()
    return Interval(float(mean), float(mean - half), float(mean + half), len(values))


def paired_over_seeds(
    values: Mapping[int, float], reference: Mapping[int, float], level: float = LEVEL
) -> Interval | None:
    """`over_seeds` of `values` minus `reference`, over the seeds that both have."""
    return over_seeds((values[seed] - reference[seed] for seed in values if seed in reference), level)
