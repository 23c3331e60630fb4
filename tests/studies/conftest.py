"""A study of two arms on digits, and results of its runs that are made up."""

import ml_collections
import pytest

from arada.studies.design import Task
from configs import digits
from configs.studies import design

# The testing preset, an epoch long.
SHORTEST = {
    "run.num_devices": 2,
    "training.epochs": 1,
    "evaluation.severities": (1, 5),
    "evaluation.out_of_distribution": (),
}


def make_study(**fields):
    arms = {name: digits.get_config(f"{name},testing") for name in ("vanilla", "adals", "ar_adals")}
    comparison = "robust_minus_one"
    given = {
        "name": "small",
        "question": "Does a study work?",
        "stated": "2026-11-26",
        "seeds": (0, 1),
        "arms": design.arms(arms, SHORTEST),
        "shifts": {"simple": {"shifts": ("noise",)}},
        "outcomes": design.outcomes("simple"),
        "comparisons": {comparison: {"arm": "ar_adals", "reference": "adals"}},
        "claims": {
            "helps": {
                "says": "Ranking helps.",
                "upheld_by": ((comparison, "shift_ece_tempered"), (comparison, "shift_ece")),
                "refuted_by": (comparison, "shift_ece"),
                "smallest_effect": {"arm": "adals", "outcome": "shift_ece", "share": 1 / 6},
            }
        },
        "budget_hours": 1.0,
    }
    return design.study(**given | fields)


@pytest.fixture
def study():
    return make_study()


def run_of(shift_ece, tempered, ece=0.1):
    """What a run with these calibration errors leaves."""

    def of_parts(error):
        return {"simple": {"noise": [{"ece": error - 0.01, "nll": 1.0}, {"ece": error + 0.01, "nll": 2.0}]}}

    metrics = {
        "test": {"ece": ece, "nll": 1.0, "brier": 0.5, "accuracy": 0.6},
        "validation": {"ece": ece},
        "shift": of_parts(shift_ece),
        "calibrated": {"temperature": {"shift": of_parts(tempered)}},
        "train_accuracy": 0.98,
        "ood": {},
    }
    return {
        "name": "made_up",
        "metrics": metrics,
        "identity": {},
        "data": {},
        "hours": 0.5,
        "commit": "0123456789ab",
        "hardware": "none",
        "absent": {"simple": {"shift": {}, "ood": {"photographs": "not there"}}},
    }


@pytest.fixture
def finished():
    """finished({arm: [(ECE under shift, the same after temperature scaling) of each seed]})."""

    def of(errors) -> dict[Task, dict]:
        return {
            Task(arm, arm, seed): run_of(*of_seed)
            for arm, seeds in errors.items()
            for seed, of_seed in enumerate(seeds)
        }

    return of


@pytest.fixture
def with_choice(study) -> ml_collections.ConfigDict:
    study.choices.alpha = {"arm": "adals", "field": "alpha", "candidates": (0.1, 0.2), "seed": 0}
    study.choices.alpha.arms = ("adals", "ar_adals")
    return study


@pytest.fixture
def made_up():
    """made_up(ECE under shift, the same after temperature scaling, clean ECE)."""
    return run_of
