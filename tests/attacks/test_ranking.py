import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from arada.attacks import agreement, equal_subsets

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
    with pytest.raises(ValueError, match="cannot cut 3 examples"):
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
