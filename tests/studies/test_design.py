"""What a study may be, the order of its runs, and the values that it chooses."""

import ml_collections
import pytest

from arada.errors import UserError
from arada.studies import design
from arada.studies.design import Task
from configs import cifar10, digits
from configs.studies import design as studies


def test_a_study_is_fine(study, with_choice):
    design.check(study)
    design.check(with_choice)


def set_to(field, value):
    def change(study):
        *path, last = field.split(".")
        node = study
        for key in path:
            node = node[key]
        node[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_to("name", "a/b"), r"study.name is 'a/b'; it must be a folder's name"),
        (set_to("seeds", ()), r"study.seeds is \(\); name one or more"),
        (set_to("seeds", (0, 0)), r"study.seeds is \(0, 0\)"),
        (set_to("budget_hours", 0.0), r"study.budget_hours is 0.0; it must be above 0"),
        (set_to("arms.adals.name", "other"), r"study.arms.adals has runs called 'other'"),
        (
            set_to("arms.adals.model.width", 8),
            r"differ in data or network: .*width is .* in vanilla and 8 in adals",
        ),
        (
            set_to("if_affordable", ("focal",)),
            r"study.if_affordable names the unknown 'focal'; choose one of vanilla, adals, ar_adals",
        ),
        (
            set_to("comparisons.robust_minus_one.arm", "x"),
            r"study.comparisons.robust_minus_one.arm names the unknown 'x'",
        ),
        (set_to("shifts", ml_collections.ConfigDict()), r"study.shifts is empty; name at least one part"),
        (
            set_to("shifts.simple.shift", ("noise",)),
            r"study.shifts.simple has 'shift', which is not a field of evaluation",
        ),
        (set_to("outcomes.nll.of", "ece"), r"study.outcomes.nll.of is 'ece': an outcome must be a path"),
        (set_to("claims.helps.upheld_by", ()), r"study.claims.helps needs upheld_by"),
        (set_to("claims.helps.refuted_by", ("x", "nll")), r"study.claims.helps names the unknown 'x'"),
        (set_to("claims.helps.refuted_by", ("robust_minus_one", "x")), r"study.claims.helps names the unknown 'x'"),
        (set_to("claims.helps.smallest_effect.share", 0.0), r"smallest_effect.share above 0"),
    ],
)
def test_what_is_no_study(study, change, message):
    change(study)
    with pytest.raises(UserError, match=message) as error:
        design.check(study)
    assert "\n" not in str(error.value)


def test_the_config_of_an_experiment_is_no_study():
    with pytest.raises(UserError, match="--study is not a study: it has no field 'question'"):
        design.check(digits.get_config("adals"))


def test_what_an_arm_needs_is_an_arm(study):
    del study.arms["vanilla"]
    with pytest.raises(UserError, match=r"study.arms.ar_adals has ranking.source=vanilla/..., which is not an arm"):
        design.check(study)
    del study.arms["ar_adals"]
    study.arms.adals.training.init_from = "vanilla/seed_{seed}"
    with pytest.raises(UserError, match=r"study.arms.adals has training.init_from=vanilla/..., which is not an arm"):
        design.check(study)


def test_the_runs_that_an_arm_needs_are_selected_with_it(study):
    def selected(arm):
        return {task.arm for task in design.selected(study, (), (arm,))}

    assert selected("adals") == {"adals"}
    assert selected("ar_adals") == {"ar_adals", "vanilla"}
    study.arms.adals.training.init_from = "vanilla/seed_{seed}"
    assert selected("adals") == {"adals", "vanilla"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("candidates", (0.1,), r"study.choices.alpha.candidates is \(0.1,\); name two or more"),
        ("arms", ("x",), r"study.choices.alpha names the unknown 'x'"),
        ("field", "alfa", r"study.choices.alpha: the config has no field 'alfa'"),
    ],
)
def test_what_cannot_be_chosen(with_choice, field, value, message):
    with_choice.choices.alpha[field] = value
    with pytest.raises(UserError, match=message):
        design.check(with_choice)


def test_runs_come_a_seed_at_a_time_and_what_may_be_left_out_last(study):
    study.if_affordable = ("adals",)
    names = [(task.name, task.seed) for task in design.tasks(study)]
    assert names == [*((arm, seed) for seed in (0, 1) for arm in ("vanilla", "ar_adals")), ("adals", 0), ("adals", 1)]


def test_what_is_chosen_from_comes_first(with_choice):
    first, second, third, *_ = design.tasks(with_choice)
    assert [first, second] == [Task("adals", f"adals/alpha_{value}", 0) for value in (0.1, 0.2)]
    assert (first.is_candidate, third.is_candidate) == (True, False)


def test_an_ensemble_comes_once_behind_its_members():
    configs = {name: cifar10.get_config(name) for name in ("vanilla", "ensemble_vanilla")}
    study = studies.study(arms=configs, seeds=(0, 1))
    assert [(task.name, task.seed) for task in design.tasks(study)] == [
        ("vanilla", 0),
        ("vanilla", 1),
        ("ensemble_vanilla", 0),
    ]


def test_seeds_and_arms_are_selected_with_what_they_need(with_choice):
    def names(seeds, arms):
        return [(task.name, task.seed) for task in design.selected(with_choice, seeds, arms)]

    points = [("adals/alpha_0.1", 0), ("adals/alpha_0.2", 0)]
    assert names(["1"], ["ar_adals"]) == [*points, ("vanilla", 1), ("ar_adals", 1)]
    assert names(["1"], ["vanilla"]) == [("vanilla", 1)]
    assert design.selected(with_choice, [], []) == design.tasks(with_choice)


@pytest.mark.parametrize(
    ("seeds", "arms", "message"),
    [
        (["7"], [], r"--seeds names '7', but the study has 0, 1; --study.seeds=... changes them"),
        (["a"], [], r"--seeds names 'a'"),
        ([], ["mixup"], r"--arms names the unknown 'mixup'; choose one of vanilla, adals, ar_adals"),
    ],
)
def test_what_cannot_be_selected(study, seeds, arms, message):
    with pytest.raises(UserError, match=message):
        design.selected(study, seeds, arms)


def test_the_value_of_the_lowest_validation_error_is_used_by_all(with_choice, made_up):
    done = {Task("adals", "adals/alpha_0.1", 0): made_up(0.3, 0.1, ece=0.09)}
    task = Task("ar_adals", "ar_adals", 0)
    assert design.chosen(with_choice, done) == {}
    assert design.waits_for(with_choice, task, {}) == ["alpha"]
    done[Task("adals", "adals/alpha_0.2", 0)] = made_up(0.1, 0.3, ece=0.08)
    choices = design.chosen(with_choice, done)
    assert choices["alpha"]["value"] == 0.2
    assert design.waits_for(with_choice, task, choices) == []
    assert design.config_of(with_choice, task, choices).soft_labels.alpha == ((0, 0.2),)
    # The run by which it was chosen is that seed's run.
    of_seeds = [design.config_of(with_choice, Task("adals", "adals", seed), choices) for seed in (0, 1)]
    assert [(config.name, config.seeds) for config in of_seeds] == [("adals/alpha_0.2", (0,)), ("adals", (1,))]
