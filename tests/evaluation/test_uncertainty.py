"""Intervals over seeds of evaluation.json's numbers, for any two methods."""

import pytest
from scipy import stats

from arada.errors import UserError
from arada.evaluation import uncertainty


def run(ece, **shift):
    """A run with an ECE on the test set and, by type, under shift; a temperature halves them."""
    of = {"test": {"ece": ece}, "shift": {name: [{"ece": x} for x in values] for name, values in shift.items()}}
    halves = {name: [{"ece": x / 2} for x in values] for name, values in shift.items()}
    return of | {"calibrated": {"temperature": {"test": {"ece": ece / 2}, "shift": halves}}}


METHODS = {
    "vanilla": {
        "runs": {
            "0": run(0.10, noise=[0.1, 0.3]),
            "1": run(0.12, noise=[0.2, 0.4]),
            "2": run(0.15, noise=[0.2, 0.5]),
        }
    },
    # Seed 1 is missing, and seed 3 is nobody else's.
    "adals": {
        "runs": {
            "0": run(0.06, noise=[0.1, 0.2], fog=[0.9, 0.9]),
            "2": run(0.07, noise=[0.1, 0.3], fog=[0.9, 0.9]),
            "3": run(0.02, noise=[0.1, 0.1], fog=[0.9, 0.9]),
        }
    },
    "mixup": {"runs": {"0": run(0.01)}},
}
EVALUATION = {"methods": METHODS}


def paired(a, b):
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    return (sum(a) / len(a) - sum(b) / len(b), low, high, len(a))


def test_values_by_seed():
    assert uncertainty.by_seed(METHODS["adals"], "ece") == {0: 0.06, 2: 0.07, 3: 0.02}
    shifted = uncertainty.by_seed(METHODS["adals"], "ece", "shift", types=["noise"])
    assert shifted == pytest.approx({0: 0.15, 2: 0.2, 3: 0.1})
    all_types = uncertainty.by_seed(METHODS["adals"], "ece", "shift", "temperature")
    assert all_types == pytest.approx({0: 0.2625, 2: 0.275, 3: 0.25})
    assert uncertainty.by_seed(METHODS["mixup"], "ece", "shift") == {}
    assert uncertainty.by_seed(METHODS["mixup"], "nll") == {}


def test_differences_pair_seeds_and_types():
    found = uncertainty.compare(EVALUATION, "adals", "vanilla", "ece")
    assert found == pytest.approx(paired([0.06, 0.07], [0.10, 0.15]))
    # Without fog, which vanilla lacks.
    found = uncertainty.compare(EVALUATION, "adals", "vanilla", "ece", "shift")
    assert found == pytest.approx(paired([0.15, 0.2], [0.2, 0.35]))
    found = uncertainty.compare(EVALUATION, "adals", "vanilla", "ece", variant="temperature")
    assert found == pytest.approx(paired([0.03, 0.035], [0.05, 0.075]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mixup", "vanilla", "ece"), r"at least two seeds with ece \(test\); mixup and vanilla share 0\. Train"),
        (("adals", "vanilla", "nll"), r"at least two seeds with nll"),
        (("mixup", "adals", "ece", "shift"), r"ece \(shift\); mixup and adals share 0"),
        (("focal", "vanilla", "ece"), r"focal is not in evaluation.json, which has vanilla, adals, mixup"),
    ],
)
def test_what_has_no_interval_says_why(arguments, message):
    with pytest.raises(UserError, match=message):
        uncertainty.compare(EVALUATION, *arguments)


def test_each_pair_is_there_once():
    found = uncertainty.pairs(METHODS, ["plain", "temperature"])
    assert found["plain"]["test"]["ece"] == {"adals": {"vanilla": pytest.approx(paired([0.06, 0.07], [0.10, 0.15]))}}
    assert list(found["temperature"]) == ["test", "shift"]
    assert "nll" not in found["plain"]["test"]
