"""Verdicts on made-up outcomes of each kind, with the numbers of seeds worked out by hand."""

import math

import pytest

from arada.evaluation import verdict
from arada.evaluation.intervals import Interval, over_seeds


def test_a_claim_is_upheld_where_all_its_intervals_lie_below_0():
    below = [Interval(-2.0, -3.5, -0.5, 5), Interval(-1.0, -1.9, -0.1, 5)]
    assert verdict.decide(below, below[1], smallest_effect=3.0).kind == "upheld"
    # Small, but there: the claim is about the sign.
    tiny = [Interval(-0.2, -0.3, -0.1, 5)]
    assert verdict.decide(tiny, tiny[0], smallest_effect=3.0).kind == "upheld"


@pytest.mark.parametrize("low", [-2.9, 0.5])
def test_a_claim_is_refuted_where_the_effect_that_matters_is_excluded(low):
    refuting = Interval(low + 1.5, low, low + 3, 5)
    found = verdict.decide([refuting, Interval(-0.5, -2.0, 1.0, 5)], refuting, smallest_effect=3.0)
    assert (found.kind, found.seeds) == ("refuted", None)


def test_one_interval_that_reaches_0_leaves_a_claim_open():
    first, second = Interval(-2.0, -3.5, -0.5, 5), Interval(-2.0, -4.2, 0.2, 5)
    assert verdict.decide([first, second], second, smallest_effect=3.0).kind == "open"


def test_at_the_very_ends_nothing_is_decided():
    touching = Interval(-1.5, -3.0, 0.0, 5)
    assert verdict.decide([touching], touching, smallest_effect=3.0).kind == "open"


def test_seeds_that_would_decide_an_open_claim():
    # t(4) = 2.776: a half width of 2.2 at 5 seeds is a deviation of 2.2 * 2.23607 / 2.776 = 1.772. To uphold, the half
    # width must be below 2.0: at 6 seeds 2.571 * 1.772 / 2.449 = 1.860. To refute, below -2.0 + 2.5 = 0.5, far more.
    interval = Interval(-2.0, -4.2, 0.2, 5)
    assert verdict.decide([interval], interval, smallest_effect=2.5) == (
        "open",
        "no rule is met; if means and spreads do not change, 6 seeds would decide",
        6,
    )
    # To refute, below -0.2 + 2.0 = 1.8: at 6 seeds 1.860, at 7 seeds 2.447 * 1.772 / 2.646 = 1.639.
    near_0 = Interval(-0.2, -2.4, 2.0, 5)
    assert verdict.decide([near_0], near_0, smallest_effect=2.0).seeds == 7


def test_where_means_are_against_both_rules_no_number_of_seeds_decides():
    worse, large = Interval(0.5, -1.0, 2.0, 5), Interval(-4.0, -9.0, 1.0, 5)
    found = verdict.decide([worse, large], large, smallest_effect=3.0)
    assert (found.kind, found.seeds) == ("open", None)
    assert found.reason == "no rule is met; if means and spreads do not change, no number of seeds would decide"


@pytest.mark.parametrize(
    ("claimed", "effect"),
    [([None], 3.0), ([Interval(-2.0, -3.0, -1.0, 5), None], 3.0), ([Interval(-2.0, -3.0, -1.0, 5)], None)],
)
def test_too_few_runs_leave_a_claim_open(claimed, effect):
    assert verdict.decide(claimed, claimed[0], effect) == (
        "open",
        "fewer than two seeds have all outcomes that the rules need",
        None,
    )


def test_what_is_not_a_number_decides_nothing():
    unknown = over_seeds([-1.0, math.nan, -1.0])
    assert verdict.decide([unknown], unknown, smallest_effect=1.0)[::2] == ("open", None)


def test_the_seeds_told_are_the_fewest_that_suffice():
    values = [-3.0, 1.0, -2.0, 0.5, -1.5]
    interval = over_seeds(values)
    needed = verdict.seeds_for(interval, margin=1.0)
    deviation = math.sqrt(sum((value - interval.estimate) ** 2 for value in values) / 4)

    def half(seeds):
        from scipy import stats

        return stats.t.ppf(0.975, seeds - 1) * deviation / math.sqrt(seeds)

    assert half(needed) < 1.0 <= half(needed - 1)


def test_margins_that_no_number_of_seeds_reaches():
    interval = Interval(-1.0, -2.0, 0.0, 5)
    assert verdict.seeds_for(interval, 0.0) is None
    assert verdict.seeds_for(interval, 1e-4) is None


def test_a_claim_says_something():
    with pytest.raises(ValueError, match="at least one difference"):
        verdict.decide([], Interval(0.0, -1.0, 1.0, 5), 1.0)
    with pytest.raises(ValueError, match=r"smallest_effect is -1.0; it must be above 0"):
        verdict.decide([Interval(0.0, -1.0, 1.0, 5)], Interval(0.0, -1.0, 1.0, 5), -1.0)
