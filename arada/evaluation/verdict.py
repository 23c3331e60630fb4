"""The verdict on a claim by rules that were fixed before the first run.

A claim says that differences between two methods are below 0 in some outcomes. It is *upheld* if the interval of each
of these differences lies below 0. It is *refuted* if the interval of one outcome, named beforehand, excludes the
smallest effect that matters. Otherwise it is *open*, and the page says how many seeds would decide it if means and
spreads do not change.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import special

from arada.evaluation.intervals import LEVEL, Interval

# Larger numbers of seeds are reported as "no number".
MOST_SEEDS = 10_000


class Verdict(NamedTuple):
    """The verdict and its reason. `seeds` would decide an open claim; None if no number would, or too few are done."""

    kind: Literal["upheld", "refuted", "open"]
    reason: str
    seeds: int | None = None


def decide(
    claimed: Sequence[Interval | None], refuting: Interval | None, smallest_effect: float | None, level: float = LEVEL
) -> Verdict:
    """The verdict on differences; lower is better.

    Args:
      claimed: the interval of each difference that the claim says is below 0; None with fewer than two seeds.
      refuting: the interval that may refute the claim.
      smallest_effect: the smallest distance below 0 that matters, above 0; None if it is not known yet.
      level: the level of the intervals.

    Raises ValueError without a claimed difference, or for an effect that is not above 0.
    """
    if not claimed:
        raise ValueError("a claim needs at least one difference")
    if smallest_effect is not None and smallest_effect <= 0:
        raise ValueError(f"smallest_effect is {smallest_effect}; it must be above 0")
    known = [interval for interval in claimed if interval is not None]
    if smallest_effect is None or refuting is None or len(known) < len(claimed):
        return Verdict("open", "fewer than two seeds have all outcomes that the rules need")
    if all(interval.high < 0 for interval in known):
        return Verdict("upheld", "every interval of the claim lies below 0")
    if refuting.low > -smallest_effect:
        return Verdict("refuted", "the interval excludes the smallest effect that matters")
    seeds = _seeds_to_decide(known, refuting, smallest_effect, level)
    reason = f"no rule is met; if means and spreads do not change, {seeds or 'no number of'} seeds would decide"
    return Verdict("open", reason, seeds)


def _seeds_to_decide(
    claimed: Sequence[Interval], refuting: Interval, smallest_effect: float, level: float
) -> int | None:
    """The smallest number of seeds that would meet one of the two rules."""
    found = (seeds_for(interval, -interval.estimate, level) for interval in claimed)
    uphold = [seeds for seeds in found if seeds is not None]
    refute = seeds_for(refuting, refuting.estimate + smallest_effect, level)
    ways = ([max(uphold)] if len(uphold) == len(claimed) else []) + ([refute] if refute is not None else [])
    return min(ways, default=None)


def seeds_for(interval: Interval, margin: float, level: float = LEVEL) -> int | None:
    """The smallest number of seeds, at least those of `interval`, with an interval of half width below `margin`.

    Assumes that the standard deviation over seeds does not change. None if no number is large enough, or if the margin
    is not above 0.
    """
    if not (margin > 0 and math.isfinite(interval.high)):
        return None
    half = interval.high - interval.estimate
    deviation = half * math.sqrt(interval.seeds) / special.stdtrit(interval.seeds - 1, (1 + level) / 2)
    seeds = np.arange(interval.seeds, MOST_SEEDS + 1)
    narrow = special.stdtrit(seeds - 1, (1 + level) / 2) * deviation / np.sqrt(seeds) < margin
    return int(seeds[narrow.argmax()]) if narrow.any() else None
