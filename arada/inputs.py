"""Checks of the arguments of the library's functions: shapes and dtypes always, values where they are concrete.

Under jit values are not checked. Each raises ValueError with the argument's name, what it must be and what was given:
wrong shapes would broadcast, and JAX takes the last class for a label of -1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray

# Probabilities and their means may exceed 1 by the rounding of a softmax.
ROUNDING = 1e-4


def as_array(values: Any) -> Array:
    """Arrays unchanged, anything else as a NumPy array."""
    return values if isinstance(values, jax.Array | np.ndarray) else np.asarray(values)


def concrete(values: Array) -> np.ndarray | None:
    """The values on this host; None under jit, or where other hosts hold a part of them."""
    if isinstance(values, jax.core.Tracer) or not getattr(values, "is_fully_addressable", True):
        return None
    return np.asarray(values)


def described(values: Array) -> str:
    """Dtype and shape, such as `int32[4, 1]`."""
    return f"{values.dtype}{list(values.shape)}"


def numbers(name: str, values: Any, shape: tuple[int | None, ...], *, low: float = -np.inf, high: float = np.inf):
    """`values` as an array of real numbers of `shape`, in which None is any length; within [low, high], or NaN."""
    values = as_array(values)
    _check_dtype(name, values, "real numbers", jnp.floating, jnp.integer, jnp.bool_)
    _check_shape(name, values, shape)
    check_range(name, values, low, high)
    return values


def check_range(name: str, values: Array, low: float, high: float, *, where: Array | None = None) -> None:
    """Raises ValueError if concrete `values` leave [low, high] where `where` says; NaN does not count."""
    found = _selected(values, where)
    if found is None or not found.size or (low == -np.inf and high == np.inf):
        return
    lowest, highest = (float(least.reduce(found, axis=None)) for least in (np.fmin, np.fmax))
    if lowest < low or highest > high:
        raise ValueError(f"{name} must be in [{low:.4g}, {high:.4g}], not from {lowest:.4g} to {highest:.4g}")


def whole_numbers(name: str, values: Any, like: tuple[str, Array], below: int, *, mask: Array | None = None) -> Array:
    """`values` int[N] in 0..below-1, one for each row of `like`, an argument's name and its array."""
    values = as_array(values)
    _check_dtype(name, values, "integers", jnp.integer)
    if values.shape != like[1].shape[:1]:
        raise ValueError(
            f"{name} must be [{like[1].shape[0]}], one for each row of {like[0]} {described(like[1])}, not "
            f"{described(values)}"
        )
    found = _selected(values, mask)
    if found is not None and found.size and (found.min() < 0 or found.max() >= below):
        raise ValueError(f"{name} must be in 0..{below - 1}, not from {found.min()} to {found.max()}")
    return values


def mask_of(mask: Any, like: tuple[str, Array]) -> Array | None:
    """`mask` as bool[N], one for each row of `like`; None stays None."""
    if mask is None:
        return None
    mask = as_array(mask)
    _check_dtype("mask", mask, "bool", jnp.bool_)
    if mask.shape != like[1].shape[:1]:
        raise ValueError(
            f"mask must be [{like[1].shape[0]}], one for each row of {like[0]} {described(like[1])}, not "
            f"{described(mask)}"
        )
    return mask


def probabilities_and_labels(probabilities: Any, labels: Any, mask: Any = None) -> tuple[Array, Array, Array | None]:
    """Probabilities float[N, Z], labels int[N] in 0..Z-1 and a mask bool[N] or None; the masked may hold anything."""
    probabilities = class_scores("probabilities", probabilities)
    mask = mask_of(mask, ("probabilities", probabilities))
    check_range("probabilities", probabilities, 0, 1 + ROUNDING, where=mask)
    labels = whole_numbers("labels", labels, ("probabilities", probabilities), probabilities.shape[-1], mask=mask)
    return probabilities, labels, mask


def scores_and_outcomes(scores: Any, outcomes: Any, mask: Any = None) -> tuple[Array, Array, Array | None]:
    """Scores float[N] in [0, 1], outcomes [N] in [0, 1] and a mask bool[N] or None; the masked may hold anything."""
    scores = numbers("scores", scores, (None,))
    outcomes = numbers("outcomes", outcomes, scores.shape)
    mask = mask_of(mask, ("scores", scores))
    check_range("scores", scores, 0, 1 + ROUNDING, where=mask)
    check_range("outcomes", outcomes, 0, 1, where=mask)
    return scores, outcomes, mask


def booleans(name: str, values: Array) -> np.ndarray:
    """Concrete values as bool; they must be bool, 0 or 1."""
    values = np.asarray(values)
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"{name} must be bool, 0 or 1, not {described(values)} of other values")
    return values.astype(bool)


def class_scores(name: str, values: Any, axes: int = 2) -> Array:
    """`values` [N, Z] (with `axes=3` [M, N, Z]) of Z >= 2 classes: logits or probabilities."""
    values = numbers(name, values, (None,) * axes)
    if values.shape[-1] < 2:
        raise ValueError(
            f"{name} must have a number for each of two classes or more in the last axis, not {described(values)}; "
            f"make [1 - p, p] of one sigmoid output p, or [0, x] of its logit x"
        )
    return values


def positive_count(name: str, value: Any, most: int = 2**31 - 1) -> int:
    """`value` as a Python integer in 1..most."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= most:
        raise ValueError(f"{name} must be a whole number in 1..{most}, not {value!r}")
    return int(value)


def _selected(values: Array, mask: Array | None) -> np.ndarray | None:
    """The concrete values that the mask selects; None if either is unknown."""
    found, where = concrete(values), None if mask is None else concrete(mask)
    if found is None or (mask is not None and where is None):
        return None
    return found if where is None else found[where]


def _check_dtype(name: str, values: Array, needed: str, *kinds: type) -> None:
    # NumPy does not know that bfloat16 is floating.
    if not any(jnp.issubdtype(values.dtype, kind) for kind in kinds):
        raise ValueError(f"{name} must be {needed}, not {described(values)}")


def _check_shape(name: str, values: Array, shape: tuple[int | None, ...]) -> None:
    if len(values.shape) != len(shape) or any(n not in (None, m) for n, m in zip(shape, values.shape, strict=True)):
        needed = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} must have the shape [{needed}], not {described(values)}")
