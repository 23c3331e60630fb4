"""From distances to equal subsets, and how well two rankings agree."""

import numpy as np
from scipy import stats

Array = np.ndarray


def equal_subsets(distance: Array, num_subsets: int) -> Array:
    """Cuts N examples into R subsets of equal size by rank (section 4): int32[N], 0 = least robust.

    Args:
      distance: float[N], in the order of example ids; `inf` (attack failed) sorts as most robust. Ties go to the
        lower id.
      num_subsets: R. Sizes differ by at most one where R does not divide N.

    Raises ValueError if a distance is NaN or R is not in 1..N.
    """
    distance = np.asarray(distance)
    count = len(distance)
    if not 1 <= num_subsets <= count:
        raise ValueError(f"cannot cut {count} examples into {num_subsets} subsets")
    if np.isnan(distance).any():
        raise ValueError(f"{np.isnan(distance).sum()} of {count} distances are NaN")
    rank = np.empty(count, np.int64)
    rank[np.argsort(distance, kind="stable")] = np.arange(count)
    return (rank * num_subsets // count).astype(np.int32)


def agreement(distance: Array, reference: Array, num_subsets: int) -> dict[str, float]:
    """How well `distance` [N] ranks examples as `reference` [N] does.

    Returns spearman (rank correlation), same_subset and adjacent_subset (fractions of examples that fall into the
    same, or the same or a neighbouring, of R equal subsets), and median_ratio (of distance to reference, where both
    are finite).
    """
    difference = np.abs(equal_subsets(distance, num_subsets) - equal_subsets(reference, num_subsets))
    both = np.isfinite(distance) & np.isfinite(reference) & (np.asarray(reference) > 0)
    ratio = np.median(np.asarray(distance)[both] / np.asarray(reference)[both]) if both.any() else np.nan
    # Ranks, not values: `inf` has a rank, but no covariance.
    spearman = stats.spearmanr(stats.rankdata(distance), stats.rankdata(reference)).statistic
    return {
        "spearman": float(spearman),
        "same_subset": float(np.mean(difference == 0)),
        "adjacent_subset": float(np.mean(difference <= 1)),
        "median_ratio": float(ratio),
    }
