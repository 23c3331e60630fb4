"""What all studies share: their fields with their meaning, and the outcomes that calibration is judged by."""

from collections.abc import Mapping
from typing import Any

import ml_collections

# Fields whose order is that of runs and tables.
ORDERED = ("arms", "choices", "shifts", "outcomes", "comparisons", "claims")


def study(**fields: Any) -> ml_collections.ConfigDict:
    """The fields of a study, with those of a file; `python -m arada.study` checks them."""
    config = ml_collections.ConfigDict(
        {
            # Of the results, one plain word.
            "name": "",
            # The title of its page.
            "question": "",
            # The date on which the design was committed, before its first run.
            "stated": "",
            # Each run of an arm has one; arms are compared within a seed.
            "seeds": (),
            # By name, the config of an experiment. All are of one data set, split and network.
            "arms": {},
            # Arms that come after all seeds of the others.
            "if_affordable": (),
            # Values that are chosen by validation ECE before the arms run, by name: {"arm": whose runs, "field" as in
            # the grid of a sweep, "candidates", "seed" of these runs, "arms": those that use the chosen value}. The run
            # that was chosen is that seed's run of the arm.
            "choices": {},
            # The shifted images that each run is evaluated on: {part: fields of `evaluation`}.
            "shifts": {},
            # What is looked at: {name: {"says": in words, "of": a path (arada/studies/outcomes.py), "better": "lower"
            # or "higher"}}.
            "outcomes": {},
            # {name: {"arm", "reference"}}: arm minus reference, within each seed.
            "comparisons": {},
            # {name: {"says": a sentence, "upheld_by": ((comparison, outcome), ...), "refuted_by": (comparison,
            # outcome), "smallest_effect": {"arm", "outcome", "share"}}}; arada/evaluation/verdict.py has the rules.
            "claims": {},
            # Hours of all runs together. A run begins only if it is expected to end within them.
            "budget_hours": 0.0,
            # Where results go, such as "docs/studies/ranking", to be committed as they come; "" for WORKDIR/study.
            "results": "",
        }
    )
    for name, value in fields.items():
        config[name] = ml_collections.ConfigDict(value, sort_keys=False) if name in ORDERED else value
    return config


def arms(configs: Mapping[str, ml_collections.ConfigDict], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """These configs by arm, all with the same `overrides` and with the arm's name for their runs."""
    for name, config in configs.items():
        config.name = name
        config.update_from_flattened_dict(overrides)
    return dict(configs)


def outcomes(part: str) -> dict[str, dict[str, str]]:
    """The outcomes (a) to (f) with the shifted images of `part`: calibration, and what it must not cost."""

    def one(says: str, of: str, better: str = "lower") -> dict[str, str]:
        return {"says": says, "of": of, "better": better}

    tempered = "calibrated.temperature"
    return {
        "shift_ece_tempered": one("(a) ECE under shift after temperature scaling", f"{tempered}.shift.{part}.ece"),
        "shift_ece": one("(b) ECE under shift", f"shift.{part}.ece"),
        "ece_over_floor": one("(c) ECE on clean test images minus its floor", "test.ece - test.ece_floor"),
        "accuracy": one("(d) accuracy, clean", "test.accuracy", "higher"),
        "nll": one("(d) NLL, clean", "test.nll"),
        "brier": one("(d) Brier score, clean", "test.brier"),
        "shift_accuracy": one("(d) accuracy under shift", f"shift.{part}.accuracy", "higher"),
        "shift_nll": one("(d) NLL under shift", f"shift.{part}.nll"),
        "shift_brier": one("(d) Brier score under shift", f"shift.{part}.brier"),
        "nll_tempered": one("(d) NLL after temperature scaling, clean", f"{tempered}.test.nll"),
        "shift_nll_tempered": one("(d) NLL under shift after temperature scaling", f"{tempered}.shift.{part}.nll"),
        "shift_brier_tempered": one("(d) Brier score under shift after it", f"{tempered}.shift.{part}.brier"),
        "auroc": one("(f) AUROC of the confidence, out-of-distribution images", "ood.auroc_confidence", "higher"),
    }
