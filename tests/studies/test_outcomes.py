"""Outcomes by their paths, with means worked out by hand."""

import pytest

from arada.studies import outcomes

METRICS = {
    "test": {"ece": 0.10, "ece_floor": 0.04, "nll": None},
    "shift": {"simple": {"noise": [{"ece": 0.2}, {"ece": 0.4}], "blur": [{"ece": 0.5}, {"ece": 0.7}]}},
    "calibrated": {"temperature": {"shift": {"simple": {"noise": [{"ece": 0.1}]}}}},
    "ood": {"a/32x32": {"auroc_confidence": 0.8}, "b": {"auroc_confidence": 0.6}},
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("test.ece", 0.10),
        ("test.ece - test.ece_floor", 0.06),
        # The mean of types, each the mean of its severities: (0.3 + 0.6) / 2.
        ("shift.simple.ece", 0.45),
        ("shift.simple.noise.ece", 0.3),
        ("calibrated.temperature.shift.simple.ece", 0.1),
        ("ood.auroc_confidence", 0.7),
    ],
)
def test_an_outcome_by_its_path(path, expected):
    assert outcomes.value(METRICS, path) == pytest.approx(expected)


@pytest.mark.parametrize("path", ["test.nll", "test.brier", "shift.generated.ece", "shift.simple.fog.ece", "ood.x.y"])
def test_what_a_run_lacks_is_none(path):
    assert outcomes.value(METRICS, path) is None


def test_no_branches_are_no_mean():
    assert outcomes.value({"ood": {}}, "ood.auroc_confidence") is None


@pytest.mark.parametrize("text", ["", "ece", "test.ece -", "a.b - c.d - e.f", "test ece"])
def test_what_is_no_path(text):
    with pytest.raises(ValueError, match="an outcome must be a path"):
        outcomes.parse(text)


def test_differences_are_over_the_seeds_that_both_have():
    def runs(**errors):
        return {int(seed[1:]): {"metrics": {"test": {"ece": error}}} for seed, error in errors.items()}

    found = outcomes.difference(runs(s0=0.1, s1=0.2, s2=0.9), runs(s0=0.2, s1=0.2, s3=0.0), "test.ece")
    assert found.seeds == 2
    assert found.estimate == pytest.approx(-0.05)
    assert outcomes.difference(runs(s0=0.1), runs(s0=0.1), "test.ece") is None
    assert outcomes.mean(runs(s0=0.1, s1=0.3), "test.ece").estimate == pytest.approx(0.2)
