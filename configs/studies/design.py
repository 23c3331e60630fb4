"""The shared parts of all studies: the fields and their meaning, arms, comparisons, claims and outcomes."""

from collections.abc import Mapping
from typing import Any

import ml_collections

# Fields that order the runs and the tables.
ORDERED = ("arms", "choices", "shifts", "outcomes", "comparisons", "claims")


def study(**fields: Any) -> ml_collections.ConfigDict:
    """A study with these fields; `python -m arada.study` checks them."""
    config = ml_collections.ConfigDict(
        {
            # The study's name, one plain word.
            "name": "",
            # The title of the study's page.
            "question": "",
            # The date on which the design was committed, before the first run.
            "stated": "",
            # Every arm has a run with each seed; arms are compared within a seed.
            "seeds": (),
            # By name, the config of an experiment. All arms have the same data set, split and network.
            "arms": {},
            # Arms that run after all seeds of the other arms.
            "if_affordable": (),
            # Values that are chosen by validation ECE before the arms run, by name: {"arm": the arm of the candidate
            # runs, "field" as in the grid of a sweep, "candidates", "seed" of the candidate runs, "arms": the arms that
            # use the chosen value}. The chosen candidate's run is also the arm's run with that seed.
            "choices": {},
            # The shifted images for the evaluation: {part: fields of `evaluation`}.
            "shifts": {},
            # {name: {"says": in words, "of": a path (arada/studies/outcomes.py), "better": "lower" or "higher"}}.
            "outcomes": {},
            # {name: {"arm", "reference"}}: arm minus reference, within each seed.
            "comparisons": {},
            # {name: {"says": a sentence, "upheld_by": ((comparison, outcome), ...), "refuted_by": (comparison,
            # outcome), "smallest_effect": {"arm", "outcome", "share"}}}; arada/evaluation/verdict.py has the rules.
            "claims": {},
            # Hours of all runs together. A run starts only if it is expected to end within them.
            "budget_hours": 0.0,
            # The results folder, such as "docs/studies/ranking", to be committed run by run; "" for WORKDIR/study.
            "results": "",
        }
    )
    for name, value in fields.items():
        config[name] = ml_collections.ConfigDict(value, sort_keys=False) if name in ORDERED else value
    return config


def arms(configs: Mapping[str, ml_collections.ConfigDict], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The configs by arm, all with the same `overrides`, and with runs named after their arm."""
    for name, config in configs.items():
        config.name = name
        config.update_from_flattened_dict(overrides)
    return dict(configs)


def comparisons(**pairs: tuple[str, str]) -> dict[str, dict[str, str]]:
    """The comparisons by name, each given as (arm, reference)."""
    return {name: {"arm": arm, "reference": reference} for name, (arm, reference) in pairs.items()}


def claim(says: str, comparison: str, upheld_by: tuple[tuple[str, str], ...], share: float) -> dict[str, Any]:
    """A claim that `comparison` refutes by its ECE under shift; the smallest effect is a share of AdaLS'."""
    effect = {"arm": "adals", "outcome": "shift_ece", "share": share}
    return {
        "says": says,
        "upheld_by": upheld_by,
        "refuted_by": (comparison, "shift_ece"),
        "smallest_effect": effect,
    }


def ranking_helps(comparison: str) -> dict[str, Any]:
    """The claim on the `comparison` of subsets by attack with random subsets, also after temperature scaling.

    The paper's effect is a third of AdaLS' ECE under shift, 3.2 of 9.6; the smallest effect that matters is half of it.
    """
    says = "Subsets by adversarial robustness calibrate better under shift than random subsets do."
    return claim(says, comparison, ((comparison, "shift_ece_tempered"), (comparison, "shift_ece")), share=1 / 6)


def outcomes(part: str) -> dict[str, dict[str, str]]:
    """The outcomes with the shifted images of `part`: calibration, and the metrics that must not suffer."""

    def outcome(says: str, path: str, better: str = "lower") -> dict[str, str]:
        return {"says": says, "of": path, "better": better}

    tempered = "calibrated.temperature"
    return {
        "shift_ece_tempered": outcome("ECE under shift after temperature scaling", f"{tempered}.shift.{part}.ece"),
        "shift_ece": outcome("ECE under shift", f"shift.{part}.ece"),
        "ece_over_floor": outcome("ECE on clean test images minus its floor", "test.ece - test.ece_floor"),
        "accuracy": outcome("clean accuracy", "test.accuracy", "higher"),
        "nll": outcome("clean NLL", "test.nll"),
        "brier": outcome("clean Brier score", "test.brier"),
        "shift_accuracy": outcome("accuracy under shift", f"shift.{part}.accuracy", "higher"),
        "shift_nll": outcome("NLL under shift", f"shift.{part}.nll"),
        "shift_brier": outcome("Brier score under shift", f"shift.{part}.brier"),
        "nll_tempered": outcome("clean NLL after temperature scaling", f"{tempered}.test.nll"),
        "shift_nll_tempered": outcome("NLL under shift after temperature scaling", f"{tempered}.shift.{part}.nll"),
        "shift_brier_tempered": outcome(
            "Brier score under shift after temperature scaling", f"{tempered}.shift.{part}.brier"
        ),
        "auroc": outcome("AUROC of the confidence, out-of-distribution images", "ood.auroc_confidence", "higher"),
    }
