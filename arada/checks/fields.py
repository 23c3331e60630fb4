"""Checks of one field's value, whatever the field means."""

import math

import ml_collections

from arada.errors import UserError

# The types of the items of tuples, which ml_collections does not check.
ITEMS = {
    "seeds": int,
    "data.image_shape": int,
    "ranking.refresh_epochs": int,
    "evaluation.shifts": str,
    "evaluation.severities": int,
    "evaluation.out_of_distribution": str,
}


def check_values(config: ml_collections.ConfigDict, section: str = "") -> None:
    """Checks the types of numbers and of the items of tuples. Raises UserError."""
    for key, value in config.items():
        field = f"{section}{key}"
        if isinstance(value, ml_collections.ConfigDict):
            check_values(value, f"{field}.")
            continue
        kind = ITEMS.get(field)
        if kind and not all(type(item) is kind for item in value):
            raise UserError(f"{field} is {value!r}; its items must be {'whole numbers' if kind is int else 'strings'}")
        for number in value if kind is int else (value,):
            # JAX has integers of 32 bits only.
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{field} is {value}; it must be a number, not nan or inf")
            if isinstance(number, int) and abs(number) >= 2**31:
                raise UserError(f"{field} is {value}; whole numbers must be below 2^31 (2,147,483,648)")


def check_pairs(field: str, pairs) -> None:
    """Checks a schedule by epoch: ((epoch, value), ...), epochs increasing, values above 0. Raises UserError."""
    for pair in pairs:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise UserError(f"{field} is {pairs}; it must be ((epoch, value), ...) such as ((0, 0.05),)")
        if type(pair[0]) is not int or pair[0] < 0 or type(pair[1]) not in (int, float) or not math.isfinite(pair[1]):
            raise UserError(f"{field} is {pairs}; epochs must be whole numbers from 0 on, and values numbers")
        if pair[1] <= 0:
            raise UserError(f"{field} holds {pair[1]}; its values must be above 0")
    epochs = [epoch for epoch, _ in pairs]
    if epochs != sorted(set(epochs)):
        raise UserError(f"{field} is {pairs}; its epochs must increase")


def get(config: ml_collections.ConfigDict, field: str):
    """The value of a field named by its path, such as `ranking.cw.confidence`."""
    for key in field.split("."):
        config = config[key]
    return config


def one_of(field: str, value, allowed) -> None:
    """Raises UserError unless `value` is one of those allowed."""
    if value not in allowed:
        raise UserError(f"{field} must be one of {', '.join(map(str, allowed))}, not {value!r}")


def positive(field: str, value) -> None:
    """Raises UserError unless `value` is above 0."""
    if value <= 0:
        raise UserError(f"{field} is {value}; it must be above 0")
