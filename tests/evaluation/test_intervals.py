"""Intervals over seeds against SciPy's t tests and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from arada.evaluation.intervals import Interval, over_seeds, paired_over_seeds

VANILLA = {0: 0.11, 1: 0.14, 2: 0.12, 5: 0.19}
ADALS = {1: 0.08, 0: 0.09, 2: 0.05, 7: 0.01}


def test_two_values_by_hand():
    # Mean 2, standard error |3 - 1| / 2 = 1; the 97.5th percentile of t with one degree of freedom, a Cauchy
    # distribution, is tan(0.475 pi) = 12.706.
    assert over_seeds([1, 3]) == pytest.approx(Interval(2, 2 - 12.706205, 2 + 12.706205, 2))


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_a_mean_is_scipy_s(level):
    values = np.random.default_rng(0).normal(0.3, 0.1, 9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert over_seeds(values, level) == pytest.approx((values.mean(), *expected, 9))


def test_a_difference_is_scipy_s_over_the_seeds_that_both_have():
    a, b = ([of[seed] for seed in (0, 1, 2)] for of in (ADALS, VANILLA))
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert paired_over_seeds(ADALS, VANILLA) == pytest.approx((np.mean(a) - np.mean(b), low, high, 3))


def test_what_both_share_has_no_width():
    shifted = {seed: value + 0.25 for seed, value in VANILLA.items()}
    assert paired_over_seeds(shifted, VANILLA) == pytest.approx((0.25, 0.25, 0.25, 4))


def test_fewer_than_two_seeds_have_no_interval():
    assert over_seeds([]) is None
    assert over_seeds([0.1]) is None
    assert paired_over_seeds({0: 0.1, 1: 0.2}, {1: 0.3, 2: 0.1}) is None


def test_nan_never_becomes_a_number():
    found = over_seeds([0.1, math.nan, 0.2])
    assert all(map(math.isnan, found[:3]))
    assert found.seeds == 3


@pytest.mark.parametrize("level", [0, 1, 95, -0.1, math.nan])
def test_a_level_that_is_no_fraction_is_refused(level):
    with pytest.raises(ValueError, match="level must be a fraction"):
        over_seeds([1, 2], level)
