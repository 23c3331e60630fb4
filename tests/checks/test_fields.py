"""What the values of one field must be, whatever the field means."""

import math

import ml_collections
import pytest

from arada.checks import fields
from arada.errors import UserError
from configs import digits


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"ranking.refresh_epochs": (1.5,)}, r"^ranking.refresh_epochs is \(1.5,\); its items must be whole numbers$"),
        ({"seeds": ("a",)}, r"seeds is \('a',\); its items must be whole numbers"),
        ({"seeds": (True,)}, r"seeds is \(True,\); its items must be whole numbers"),
        ({"seeds": (2**31,)}, r"seeds is \(2147483648,\); whole numbers must be below 2\^31"),
        ({"evaluation.out_of_distribution": (0,)}, r"out_of_distribution is \(0,\); its items must be strings"),
        ({"soft_labels.epsilon": math.inf}, r"soft_labels.epsilon is inf; it must be a number, not nan or inf"),
    ],
)
def test_types_of_numbers_and_of_items(overrides, message):
    config = digits.get_config("ar_adals")
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=message):
        fields.check_values(config)


def test_the_largest_whole_number_of_32_bits_passes():
    fields.check_values(ml_collections.ConfigDict({"seeds": (2**31 - 1,), "run": {"seconds": 0.5}}))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((0.1,), r"^field is \(0.1,\); it must be \(\(epoch, value\), ...\) such as \(\(0, 0.05\),\)$"),
        (((0, 0.0),), r"field holds 0.0; its values must be above 0"),
        (((0, -0.1),), r"field holds -0.1"),
        (((60, 0.1), (30, 0.5)), r"field is \(\(60, 0.1\), \(30, 0.5\)\); its epochs must increase"),
        (((30, 0.1), (30, 0.01)), r"field is .*; its epochs must increase"),
        (((0, 0.1), (9, 0.2), (3, 0.3)), r"field is .*; its epochs must increase"),
        (((0, (1,)),), r"field is .*; epochs must be whole numbers from 0 on, and values numbers"),
        ((("a", 0.1),), r"field is .*; epochs must be whole numbers from 0 on"),
    ],
)
def test_mistakes_in_a_schedule(pairs, message):
    with pytest.raises(UserError, match=message):
        fields.check_pairs("field", pairs)


@pytest.mark.parametrize("pairs", [(), ((0, 0.05),), ([30, 1], (60, 0.1))])
def test_schedules_that_pass(pairs):
    fields.check_pairs("field", pairs)
