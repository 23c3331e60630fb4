"""From distances to equal subsets, and how well two rankings agree."""

import numpy as np

from arada import inputs
from arada.inputs import Array


def equal_subsets(distance: Array, num_subsets: int) -> np.ndarray:
    """Cuts N examples into R subsets of equal size by rank (section 4): int32[N], 0 = least robust.

    Args:
      distance: float[N], in the order of example ids; `inf` (attack failed) sorts as most robust. Ties go to the
        lower id.
      num_subsets: R. Sizes differ by at most one where R does not divide N.

    Raises ValueError if distances are not [N], one is NaN, or R is not in 1..N.
    """
    distance = _distances("distance", distance)
    count = len(distance)
    if not isinstance(num_subsets, int | np.integer) or not 1 <= num_subsets <= count:
        raise ValueError(
            f"num_subsets is {num_subsets}; it must be a whole number from 1 to the number of examples, {count}"
        )
    if np.isnan(distance).any():
        raise ValueError(f"{np.isnan(distance).sum()} of {count} distances are NaN")
    rank = np.empty(count, np.int64)
    rank[np.argsort(distance, kind="stable")] = np.arange(count)
    return (rank * num_subsets // count).astype(np.int32)


def undecided(estimate: Array, distance: Array, num_subsets: int) -> np.ndarray:
    """Which examples a more expensive attack should measure again, bool[N].

    True where `estimate` [N] and `distance` [N] (`arada.attacks.first_order`) fall into different subsets of R: the
    interval between their two ranks crosses an edge. A bias that all examples share changes nothing. Also True where
    the attack failed.
    """
    distance = _distances("distance", distance)
    estimate = _distances("estimate", estimate, distance.shape)
    differ = equal_subsets(estimate, num_subsets) != equal_subsets(distance, num_subsets)
    return differ | ~np.isfinite(distance)


def refined(distance: Array, measured: Array) -> np.ndarray:
    """Distances of a cheap attack on the scale of a more expensive one that measured some of the examples.

    Args:
      distance: float[N], the cheap attack's; `inf` where it failed.
      measured: float[N], the more expensive attack's; NaN where it did not run.

    Returns float32[N]: the smaller of both where both are known; elsewhere `distance` times the running median of
    measured / distance over the 25 known examples about it in the order of `distance` (fewer at the ends). Raises
    ValueError for other shapes, for distances below 0, and for NaN in `distance`.
    """
    distance = _distances("distance", distance, low=0)
    measured = _distances("measured", measured, distance.shape, low=0)
    if np.isnan(distance).any():
        raise ValueError(f"{np.isnan(distance).sum()} of {len(distance)} distances are NaN")
    best = np.fmin(distance, measured)
    known = np.flatnonzero(np.isfinite(distance) & np.isfinite(measured))
    if not known.size:
        return best.astype(np.float32)
    known = known[np.argsort(distance[known], kind="stable")]
    ratio = np.pad(best[known] / np.maximum(distance[known], 1e-12), 12, constant_values=np.nan)
    ratio = np.nanmedian(np.lib.stride_tricks.sliding_window_view(ratio, 25), axis=-1)
    finite = np.where(np.isfinite(distance), distance, 0)
    expected = np.where(np.isfinite(distance), finite * np.interp(finite, distance[known], ratio), np.inf)
    return np.where(np.isnan(measured), expected, best).astype(np.float32)


def agreement(distance: Array, reference: Array, num_subsets: int) -> dict[str, float]:
    """How well the ranks by `distance` [N] agree with the ranks by `reference` [N].

    Returns spearman (rank correlation), same_subset and adjacent_subset (fractions of examples that fall into the
    same, or the same or a neighbouring, of R equal subsets), and median_ratio (of distance to reference, where both
    are finite). Raises ValueError as `equal_subsets`.
    """
    distance = _distances("distance", distance)
    reference = _distances("reference", reference, distance.shape)
    difference = np.abs(equal_subsets(distance, num_subsets) - equal_subsets(reference, num_subsets))
    both = np.isfinite(distance) & np.isfinite(reference) & (reference > 0)
    ratio = np.median(distance[both] / reference[both]) if both.any() else np.nan
    from scipy import stats  # takes a second to import, which attacks save

    # Ranks, not values: `inf` has a rank, but no covariance. Where all are equal there is no correlation.
    ranks = stats.rankdata(distance), stats.rankdata(reference)
    spearman = stats.pearsonr(*ranks).statistic if all(np.ptp(rank) for rank in ranks) else np.nan
    return {
        "spearman": float(spearman),
        "same_subset": float(np.mean(difference == 0)),
        "adjacent_subset": float(np.mean(difference <= 1)),
        "median_ratio": float(ratio),
    }


def _distances(name: str, values: Array, shape: tuple[int | None] = (None,), low: float = -np.inf) -> np.ndarray:
    return np.asarray(inputs.numbers(name, values, shape, low=low))
