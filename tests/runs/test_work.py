"""The work of an experiment, against hand arithmetic."""

import pytest

from arada.runs.work import images_of, num_runs, passes, ranked_sets
from configs import digits


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


@pytest.mark.parametrize(
    ("presets", "source", "runs", "ranked"),
    [
        ("ar_adals", "vanilla/seed_{seed}", 3 + 3, 3),
        ("ar_adals", "vanilla/seed_0", 1 + 3, 1),
        ("ar_adals", "adals/seed_{seed}", 3, 3),  # only vanilla runs are trained unasked
        ("ar_adals", "a_folder", 3, 0),
        ("vanilla", "vanilla/seed_{seed}", 3, 3),
        ("vanilla", "vanilla/seed_7", 3 + 1, 1),
        ("ar_adals,finetune", "vanilla/seed_{seed}", 3, 3),
    ],
)
def test_runs_that_are_ranked_are_trained_once_each(presets, source, runs, ranked):
    config = digits.get_config(presets)
    config.ranking.source = source
    assert num_runs(config) == runs
    assert ranked_sets(config, num_test=497) == [800, 500, 497] * ranked
    images = images_of(config, num_test=497)
    assert images.trained == runs * config.training.epochs * 800
    assert images.ranked == ranked * 1797
    assert (images_of(config, alone=False).ranked, num_runs(config, alone=False)) == (0, 3)


def test_a_control_takes_no_gradients():
    assert (passes("confidence", "", {}), passes("random", "", {})) == ((0, 1), (0, 0))
