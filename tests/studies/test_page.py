"""Verdicts and pages of made-up results."""

import pytest

from arada.studies import design, page

# (ECE under shift, the same after temperature scaling) of AdaLS with seeds 0, 1, 2.
ADALS = [(0.300, 0.10), (0.310, 0.11), (0.290, 0.12)]


def less(*by):
    """AdaLS' errors, less so much in each seed."""
    return [(ece - raw, tempered - rest) for (ece, tempered), (raw, rest) in zip(ADALS[: len(by)], by, strict=True)]


@pytest.mark.parametrize(
    ("robust", "kind"),
    [
        # Both differences are below 0 in every seed, by about the same.
        (less((0.080, 0.020), (0.082, 0.021), (0.078, 0.019)), "upheld"),
        # Raw calibration is better by half a point only; a sixth of AdaLS' 30 points are 5.
        (less((0.004, -0.001), (0.006, 0.001), (0.005, 0.0)), "refuted"),
        # Better by 8 points raw, but by nothing certain after temperature scaling.
        (less((0.080, 0.020), (0.082, -0.030), (0.078, 0.019)), "open"),
    ],
)
def test_a_verdict_of_each_kind(study, finished, robust, kind):
    runs = page.by_arm(study, finished({"adals": ADALS, "ar_adals": robust}))
    assert page.verdicts(study, runs)["helps"].kind == kind
    # The mean of 0.30, 0.31 and 0.29.
    assert page.smallest_effect(study, study.claims.helps, runs) == pytest.approx(0.05)


def test_where_more_is_better_a_claim_wants_more(study, finished):
    done = finished({"adals": ADALS, "ar_adals": ADALS})
    for task, run in done.items():
        run["metrics"]["test"]["accuracy"] = (
            0.6 + 0.01 * task.seed + (0.1 + 0.001 * task.seed) * (task.arm == "ar_adals")
        )
    study.claims.helps.update(
        upheld_by=(("robust_minus_one", "accuracy"),), refuted_by=("robust_minus_one", "accuracy")
    )
    study.claims.helps.smallest_effect.update(outcome="accuracy")
    assert page.verdicts(study, page.by_arm(study, done))["helps"].kind == "upheld"


def test_a_verdict_says_in_what_the_arm_is_worse(study, finished):
    done = finished({"adals": ADALS[:2], "ar_adals": less((0.080, 0.020), (0.082, 0.021))})
    assert "worse" not in page.page(study, done, {}, lambda task: None)
    for task, run in done.items():
        run["metrics"]["test"]["accuracy"] = 0.6 - (0.2 + 0.001 * task.seed) * (task.arm == "ar_adals")
    # 20 and 20.1 points less: t(1) = 12.706 times 0.0707 / sqrt(2) = 0.635 to either side of 20.05.
    worse = "AR-AdaLS is measurably worse than AdaLS in clean accuracy -20.05 [-20.69, -19.41]."
    assert worse in page.page(study, done, {}, lambda task: None)


def test_before_any_run_all_is_open(study):
    text = page.page(study, {}, dict.fromkeys(design.tasks(study)), lambda task: None)
    assert "**Open**: Ranking helps." in text
    assert "Provisional: 0 of 2 seeds are done." in text
    assert "Nothing yet." in text
    assert "| ar_adals | 0, 1 | unknown |" in text


def test_a_page_tells_what_was_run_and_what_not(study, finished):
    done = finished({"adals": ADALS[:2], "ar_adals": less((0.08, 0.02), (0.09, 0.03))})
    left = dict.fromkeys((task for task in design.tasks(study) if task not in done), 0.5)
    text = page.page(study, done, left, lambda task: None)
    # 8 and 9 points less: a mean of 8.5, and t(1) = 12.706 times 0.7071 / sqrt(2) = 6.35 to either side.
    assert "| robust_minus_one | ar_adals - adals | 2 |" in text
    assert "-8.50 [-14.85, -2.15]" in text
    # Two runs of half an hour.
    assert "| ar_adals | 0, 1 | 1.00 | `0123456789ab` | none | 98.0 | photographs |" in text
    assert "4 runs, 2.00 hours." in text
    assert "Provisional" not in text
    assert "| vanilla | 0, 1 | 1.00 |" in text


def test_a_row_holds_the_runs_of_one_name(study, finished):
    done = finished({"adals": ADALS, "ar_adals": ADALS[:1]})
    first, second, third = (run for task, run in done.items() if task.arm == "adals")
    second.update(commit="ba9876543210", hours=0.25)
    first["metrics"]["train_accuracy"], third["metrics"]["train_accuracy"] = 1.0, None
    text = page.page(study, done, {}, lambda task: None)
    # 0.5 + 0.25 + 0.5 hours; 100 % and 98 % are known.
    assert "| adals | 0 to 2 | 1.25 | `0123456789ab`, `ba9876543210` | none | 99.0 | photographs |" in text
    assert "| ar_adals | 0 | 0.50 |" in text


def test_the_rules_are_in_words(study):
    text = page.page(study, {}, dict.fromkeys(design.tasks(study)), lambda task: None)
    difference = "*AR-AdaLS minus AdaLS* in ECE under shift"
    assert (
        f"Upheld if the interval of {difference} after temperature scaling and the interval of {difference} lies on "
        f"the better side of 0. Refuted if the interval of {difference} excludes a gain of 16.7 % of the ECE under "
        "shift of AdaLS. Otherwise open."
    ) in text


def test_a_page_tells_what_was_chosen(with_choice, made_up):
    errors = {0.1: 0.3, 0.2: 0.2}
    done = {design.Task("adals", f"adals/alpha_{value}", 0): made_up(0.3, 0.1, ece) for value, ece in errors.items()}
    text = page.page(with_choice, done, {}, lambda task: None)
    assert "alpha = 0.2 (validation ECE in percent by value: 0.1: 30.00, 0.2: 20.00)" in text
