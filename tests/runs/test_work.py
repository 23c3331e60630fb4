"""The work of an experiment, against hand arithmetic."""

import pytest

from arada.runs.work import passes


@pytest.mark.parametrize(
    ("attack", "settings", "expected"),
    [
        ("cw", {"binary_search_steps": 3, "max_iterations": 500}, (1500, 2)),
        ("fmn", {"steps": 20}, (20, 5)),
        ("sdf", {"rounds": 3, "steps": 3, "candidates": 3}, (30, 6)),
        ("first_order", {"candidates": 3}, (3, 5)),
        ("estimate", {"candidates": 1}, (1, 1)),
        ("a_new_one", {"steps": 7}, (0, 0)),
    ],
)
def test_gradients_and_forward_passes_of_an_attack(attack, settings, expected):
    assert passes("attack", attack, settings) == expected


def test_a_control_takes_no_gradients():
    assert (passes("confidence", "", {}), passes("random", "", {})) == ((0, 1), (0, 0))
