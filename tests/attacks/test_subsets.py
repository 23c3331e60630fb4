import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from arada.attacks import agreement, equal_subsets, refined, undecided

# Few values, so that ties and failures abound.
DISTANCES = npst.arrays(
    np.float32, st.integers(1, 40), elements=st.sampled_from([0.0, 0.125, 0.5, 0.75, 2.0, 100.0, np.inf])
)
SUBSETS = st.integers(1, 12)


@given(DISTANCES, SUBSETS)
def test_sizes_differ_by_at_most_one(distance, num_subsets):
    assume(num_subsets <= len(distance))
    subset = equal_subsets(distance, num_subsets)
    assert subset.dtype == np.int32
    sizes = np.bincount(subset, minlength=num_subsets)
    assert len(sizes) == num_subsets
    assert sizes.max() - sizes.min() <= 1


@given(DISTANCES, SUBSETS)
def test_subsets_rise_with_distance_then_position(distance, num_subsets):
    assume(num_subsets <= len(distance))
    subset = equal_subsets(distance, num_subsets)
    in_order = sorted(range(len(distance)), key=lambda index: (distance[index], index))
    assert np.all(np.diff(subset[in_order]) >= 0)


@given(DISTANCES, SUBSETS)
def test_only_the_order_counts(distance, num_subsets):
    assume(num_subsets <= len(distance))
    expected = equal_subsets(distance, num_subsets)
    np.testing.assert_array_equal(equal_subsets(np.square(np.float64(distance)), num_subsets), expected)
    np.testing.assert_array_equal(equal_subsets(np.arctan(np.float64(distance)), num_subsets), expected)


def test_subsets_by_hand():
    distance = np.asarray([0.5, np.inf, 0.1, 0.5, np.inf, 0.2])
    np.testing.assert_array_equal(equal_subsets(distance, 3), [1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(equal_subsets(distance, 2), [0, 1, 0, 1, 1, 0])  # the tie at 0.5 goes by position
    np.testing.assert_array_equal(equal_subsets(distance, 1), [0] * 6)
    np.testing.assert_array_equal(equal_subsets(distance, 6), [2, 4, 0, 3, 5, 1])
    np.testing.assert_array_equal(np.bincount(equal_subsets(distance, 4)), [2, 1, 2, 1])


def test_failures_are_the_most_robust():
    np.testing.assert_array_equal(equal_subsets(np.asarray([np.inf, 3e38, 0]), 3), [2, 1, 0])


def test_many_examples_do_not_overflow():
    subset = equal_subsets(np.arange(300_000, dtype=np.float32), 10_000)
    np.testing.assert_array_equal(np.bincount(subset), 30)
    assert np.all(np.diff(subset) >= 0)


def test_nan_raises():
    with pytest.raises(ValueError, match="1 of 3 distances are NaN"):
        equal_subsets(np.asarray([0.1, np.nan, 0.2]), 2)


@pytest.mark.parametrize("num_subsets", [-1, 0, 4])
def test_impossible_number_of_subsets_raises(num_subsets):
    with pytest.raises(ValueError, match="it must be a whole number from 1 to the number of examples, 3"):
        equal_subsets(np.asarray([0.1, 0.3, 0.2]), num_subsets)


def test_agreement_with_itself():
    distance = np.asarray([0.3, np.inf, 0.1, 0.2])
    expected = {"spearman": 1, "same_subset": 1, "adjacent_subset": 1, "median_ratio": 1}
    assert agreement(distance, distance, 4) == pytest.approx(expected)


def test_agreement_by_hand():
    reference = np.asarray([1.0, 2.0, 3.0, 4.0])
    # Ranks 1, 0, 2, 3: spearman 1 - 6 * 2 / (4 * 15). Ratios 4, 1, 5/3, 2.
    found = agreement(np.asarray([4.0, 2.0, 5.0, 8.0]), reference, 4)
    assert found == pytest.approx(
        {"spearman": 0.8, "same_subset": 0.5, "adjacent_subset": 1, "median_ratio": (5 / 3 + 2) / 2}
    )
    found = agreement(np.asarray([4.0, 3.0, 2.0, 1.0]), reference, 4)
    assert found == pytest.approx(
        {"spearman": -1, "same_subset": 0, "adjacent_subset": 0.5, "median_ratio": (2 / 3 + 3 / 2) / 2}
    )


def test_agreement_takes_ratios_of_the_finite_alone():
    # inf on either side and a reference of 0 leave one pair; ranks 0, 3, 1, 2 against 1, 2, 3, 0.
    found = agreement(np.asarray([1.0, np.inf, 3.0, 5.0]), np.asarray([1.5, 2.0, np.inf, 0.0]), 2)
    assert found["median_ratio"] == pytest.approx(1 / 1.5)
    assert found["spearman"] == pytest.approx(1 - 6 * (1 + 1 + 4 + 4) / (4 * 15))


def test_agreement_without_finite_pairs_has_no_ratio():
    assert np.isnan(agreement(np.asarray([np.inf, 1.0]), np.asarray([1.0, np.inf]), 2)["median_ratio"])


def test_undecided_by_hand():
    estimate = np.asarray([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    # Ranks 0, 2, 1, 3, 5, 4: in thirds the second and third example change sides, in halves none of them does.
    distance = np.asarray([2.0, 6.0, 5.0, 7.0, 9.0, 8.0])
    np.testing.assert_array_equal(undecided(estimate, distance, 3), [False, True, True, False, False, False])
    np.testing.assert_array_equal(undecided(estimate, distance, 2), [False] * 6)
    np.testing.assert_array_equal(undecided(estimate, distance, 6), [False, True, True, False, True, True])


def test_failures_are_undecided():
    # The last is the most robust by either ranking.
    found = undecided(np.asarray([0.2, 0.1, 0.4, 0.3]), np.asarray([0.3, 0.1, np.inf, 0.4]), 4)
    np.testing.assert_array_equal(found, [False, False, True, False])


@given(DISTANCES, SUBSETS)
def test_bias_that_all_examples_share_decides_nothing(distance, num_subsets):
    assume(num_subsets <= len(distance))
    for biased in (3 * distance, np.sqrt(distance), distance + 1):
        np.testing.assert_array_equal(undecided(distance, biased, num_subsets), np.isinf(distance))


def test_refined_by_hand():
    nan = np.nan
    distance = np.asarray([5.0, 2.0, 3.0, 1.0, 4.0, 6.0, 8.0, 9.0])
    # The ratios of the known are 0.5, 0.5, 1 (the dearer attack found worse), 0.5 and 0.5, in order of distance.
    measured = np.asarray([6.5, 1.0, nan, nan, 2.0, 3.0, 4.0, nan])
    found = refined(distance, measured)
    np.testing.assert_allclose(found, [5, 1, 1.5, 0.5, 2, 3, 4, 4.5])
    assert found.dtype == np.float32


def test_refined_takes_what_either_attack_found():
    # Found by the second alone, by the first alone, by neither; the others are known to both.
    found = refined(np.asarray([np.inf, 2.0, np.inf, 3.0, 4.0]), np.asarray([5.0, np.inf, np.inf, 1.5, 9.0]))
    np.testing.assert_array_equal(found, [5, 2, np.inf, 1.5, 4])


def test_refined_of_nothing_measured_is_the_distance():
    distance = np.asarray([0.5, np.inf, 0.25])
    found = refined(distance, np.full(3, np.nan))
    np.testing.assert_array_equal(found, distance)
    assert found.dtype == np.float32


def test_refined_is_not_led_by_outliers():
    # Ratios of 0.5, but for three close together.
    distance = np.arange(1, 102, dtype=np.float32)
    measured = np.where(np.isin(distance, [49, 51, 53]), 0.01, 0.5) * distance
    measured[[47, 49, 51]] = np.nan
    np.testing.assert_allclose(refined(distance, measured)[[47, 49, 51]], [24, 25, 26])


def test_refined_follows_a_ratio_that_varies_with_distance():
    distance = np.arange(1, 301, dtype=np.float32)
    ratio = np.repeat([0.5, 0.75, 0.5], 100)
    asked = np.isin(np.arange(300), [19, 69, 139, 179, 249])
    np.testing.assert_allclose(
        refined(distance, np.where(asked, np.nan, ratio * distance))[asked], [10, 35, 105, 135, 125]
    )


POSITIVE = npst.arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([0.125, 0.5, 0.75, 2.0, 100.0, np.inf]))


@given(POSITIVE, st.sampled_from([0.25, 0.5, 1.0, 4.0]), st.data())
def test_refined_keeps_the_order_where_the_ratio_is_constant(distance, ratio, data):
    asked = data.draw(npst.arrays(bool, len(distance)))
    found = refined(distance, np.where(asked, ratio * distance, np.nan))
    # The dearer attack's is the scale, unless it found worse; nothing finite is known, no scale either.
    scale = min(ratio, 1) if np.any(asked & np.isfinite(distance)) else 1
    np.testing.assert_array_equal(found, np.float32(scale * distance))


@given(POSITIVE, st.data())
def test_refined_is_never_above_the_distances_found(distance, data):
    measured = data.draw(
        npst.arrays(np.float32, len(distance), elements=st.sampled_from([0.125, 0.25, 1.0, 50.0, np.inf, np.nan]))
    )
    found = refined(distance, measured)
    assert not np.isnan(found).any()
    assert np.all(found <= distance)
    asked = ~np.isnan(measured)
    np.testing.assert_array_equal(found[asked], np.minimum(distance, measured)[asked])
    np.testing.assert_array_equal(np.isinf(found), np.isinf(distance) & ~(measured < np.inf))


def test_an_outlier_at_an_end_does_not_decide_for_those_beyond_it():
    distance = np.arange(1, 102, dtype=np.float32)
    measured = 0.5 * distance
    measured[[0, -1]] = np.nan
    measured[1], measured[-2] = 0.02, 1.0
    found = refined(distance, measured)
    assert found[0] == 0.5
    assert found[-1] == 50.5


def test_a_failure_that_was_not_asked_again_stays_one():
    found = refined(np.float32([0, 1, np.inf]), np.float32([0, np.nan, np.nan]))
    np.testing.assert_array_equal(found, [0, 0, np.inf])
