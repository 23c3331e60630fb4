"""The studies of configs/studies: what they state, and that they can run."""

import pytest

from arada import checks
from arada.runs.identity import run_identity
from arada.studies import design
from configs.studies import digits_sharing, finetuning, paper_cifar10, ranking


@pytest.mark.parametrize(
    "study",
    [
        ranking.get_config(),
        digits_sharing.get_config(),
        finetuning.get_config(),
        paper_cifar10.get_config(),
        paper_cifar10.get_config("wrn"),
    ],
    ids=lambda study: study.name,
)
def test_every_study_can_run(study):
    design.check(study)
    for config in study.arms.values():
        checks.check_config(config, num_devices=1)
    # The claims rest on outcomes that all arms have: no out-of-distribution images, which may be absent.
    for claim in study.claims.values():
        assert not any(study.outcomes[outcome].of.startswith("ood") for _, outcome in claim.upheld_by)


def test_the_ranking_study_is_the_one_that_was_stated():
    study = ranking.get_config()
    (claim,) = study.claims.values()
    assert claim.upheld_by == (("attack_minus_random", "shift_ece_tempered"), ("attack_minus_random", "shift_ece"))
    assert claim.refuted_by == ("attack_minus_random", "shift_ece")
    assert claim.smallest_effect.share == pytest.approx(0.5 * (9.6 - 6.4) / 9.6)
    adaptive = [name for name, config in study.arms.items() if config.soft_labels.adaptive]
    assert sorted(study.choices.alpha.arms) == sorted(adaptive)
    assert (study.choices.alpha.arm, study.stated, len(study.seeds)) == ("adals", "2026-11-26", 5)
    # Each seed is ranked by its own vanilla run, and has random subsets of its own.
    assert {config.ranking.source for config in study.arms.values()} == {"vanilla/seed_{seed}"}
    assert study.arms.ar_adals_by_random.ranking.by == "random"


def test_the_papers_study_has_five_runs_and_ensembles_of_them():
    study = paper_cifar10.get_config()
    ensembles = {name: config for name, config in study.arms.items() if config.ensemble.of}
    assert {config.ensemble.members for config in ensembles.values()} == {len(study.seeds)} == {5}
    # Those that are not run on the fly keep the paper's rates: alpha 0.05 and 0.005, epsilon 0.02.
    labels = {name: config.soft_labels for name, config in study.arms.items()}
    assert (labels["adals"].alpha, labels["ar_adals"].alpha) == (((0, 0.05),), ((0, 0.005),))
    assert labels["ar_adals_by_random"].alpha == labels["ar_adals"].alpha
    assert labels["label_smoothing"].epsilon == 0.02
    with pytest.raises(ValueError, match="unknown preset 'x'; there is wrn"):
        paper_cifar10.get_config("x")


def test_finetuning_goes_on_with_the_runs_of_the_ranking_study():
    study, source = finetuning.get_config(), ranking.get_config()
    assert run_identity(study.arms.vanilla, 3, 1) == run_identity(source.arms.vanilla, 3, 1)
    source.arms.ar_adals.soft_labels.alpha = ((0, finetuning.ALPHA),)
    assert run_identity(study.arms.ar_adals, 3, 1) == run_identity(source.arms.ar_adals, 3, 1)
    assert (study.shifts, study.outcomes) == (source.shifts, source.outcomes)
    # 4 and 10 of 40 epochs, with 10 and 4 times the alpha.
    tuned = study.arms.ar_adals_finetuned, study.arms.ar_adals_finetuned_quarter
    assert [config.training.epochs for config in tuned] == [4, 10]
    assert [config.soft_labels.alpha for config in tuned] == [
        ((0, pytest.approx(factor * finetuning.ALPHA)),) for factor in (10, 4)
    ]
    assert {config.training.init_from for config in tuned} == {"vanilla/seed_{seed}"}
