"""Ensembles of runs and ensembles in lockstep, end to end on a few digits."""

import jax
import numpy as np
import pytest
import scipy.special

import arada
from arada import metrics
from arada.errors import UserError
from arada.experiment import Experiment
from arada.runs import trained
from arada.runs.ranks import stored_subsets
from arada.runs.workdir import Workdir
from arada.runtime import files
from arada.training.checkpoints import Checkpoints
from configs import digits

pytestmark = pytest.mark.usefixtures("one_convolution")

M, R, ALPHA = 2, 10, 0.3
NAME = "ar_adals_of_ensemble"
OVERRIDES = {
    # As in test_refresh.py, whose programs some of these are.
    "run.num_devices": 2,
    "ranking.attack": "fmn",
    "ranking.fmn.steps": 2,
    "evaluation.shifts": ("noise",),
    "evaluation.severities": (1,),
    "evaluation.out_of_distribution": (),
}


def tiny(method, **overrides):
    config = digits.get_config(f"{method},testing")
    adaptive = {"soft_labels.alpha": ((0, ALPHA),)} if config.soft_labels.adaptive else {}
    config.update_from_flattened_dict(OVERRIDES | {"seeds": (0,)} | adaptive | overrides)
    return config


def run(config, path, *stages):
    experiment = Experiment(config, path)
    for stage in stages:
        experiment.run(stage)


def rows(workdir, name, seed=0):
    lines = files.read_json_lines(workdir.run(name, seed) / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in lines]


def of_epochs(workdir, name):
    return [row for row in rows(workdir, name) if "soft_label/subset_00" in row]


def by_subset(row, quantity):
    return np.array([row[f"{quantity}/subset_{r:02}"] for r in range(R)])


def predicted(workdir, name, split):
    """Probabilities of the members' mean [N, Z], labels and ids, from the stored logits."""
    stored = files.read_npz(workdir.predictions(name, 0) / f"{split}.npz")
    assert len(stored["logits"]) == M
    mean = scipy.special.softmax(stored["logits"].astype(np.float64), axis=-1).mean(axis=0)
    return mean, stored["label"], stored["example_id"]


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A workdir with an ensemble of two vanilla runs, the first of which was there before."""
    path = tmp_path_factory.mktemp("ensembles")
    run(tiny("vanilla"), path, "train")
    first = (path / "runs/vanilla/seed_0/metrics.jsonl").stat().st_mtime_ns
    run(tiny("ensemble_vanilla"), path, "train", "evaluate")
    assert (path / "runs/vanilla/seed_0/metrics.jsonl").stat().st_mtime_ns == first
    return Workdir(path)


@pytest.fixture(scope="module")
def lockstep(averaged):
    """The same with AR-AdaLS of an ensemble of two members, and its predictions."""
    run(tiny(NAME), averaged.path, "rank", "train", "evaluate")
    return averaged


def test_what_is_missing_is_trained(averaged):
    assert [seed for name, seed in averaged.runs() if name == "vanilla"] == [0, 1]
    for seed in range(M):
        assert trained.is_finished(averaged.run("vanilla", seed), tiny("vanilla"))
    assert not (averaged.run("ensemble_vanilla", 0) / "checkpoints").exists()


@pytest.mark.parametrize("split", ["test", "validation", "noise_1"])
def test_an_ensemble_holds_its_runs_predictions(averaged, split):
    stored = files.read_npz(averaged.predictions("ensemble_vanilla", 0) / f"{split}.npz")
    for seed in range(M):
        of_run = files.read_npz(averaged.predictions("vanilla", seed) / f"{split}.npz")
        np.testing.assert_array_equal(stored["logits"][seed], of_run["logits"][0])
        for key in ("label", "example_id"):
            np.testing.assert_array_equal(stored[key], of_run[key])


def test_it_is_evaluated_by_the_mean_of_probabilities(averaged):
    probabilities, labels, _ = predicted(averaged, "ensemble_vanilla", "test")
    found = files.read_json(averaged.evaluation)["methods"]["ensemble_vanilla"]
    assert found["seeds"] == [0]
    of_run = found["runs"]["0"]
    assert of_run["test"]["accuracy"] == pytest.approx(np.mean(probabilities.argmax(axis=-1) == labels))
    assert of_run["test"]["nll"] == pytest.approx(-np.mean(np.log(probabilities[np.arange(len(labels)), labels])))
    # It was not trained itself.
    assert of_run["train_accuracy"] is None


def test_it_may_be_evaluated_without_the_training_stage(averaged):
    config = tiny("ensemble_vanilla")
    config.name = "evaluated_alone"
    run(config, averaged.path, "evaluate")
    assert "evaluated_alone" in files.read_json(averaged.evaluation)["methods"]


def test_its_summaries_are_of_all_members_at_once(averaged):
    config = tiny("ensemble_vanilla", **{"evaluation.store_shifted": "summaries"})
    config.name = "summarized"
    run(config, averaged.path, "evaluate")
    assert "logits" not in files.read_npz(averaged.predictions(config.name, 0) / "noise_1.npz")
    methods = files.read_json(averaged.evaluation)["methods"]
    found, expected = (methods[name]["runs"]["0"]["shift"]["noise"][0] for name in (config.name, "ensemble_vanilla"))
    assert found == pytest.approx(expected, rel=1e-4)


def test_subsets_may_be_those_of_each_run_s_own_ranking(averaged):
    run(tiny("vanilla", **{"seeds": (1,), "evaluation.subsets_of": "own"}), averaged.path, "evaluate")
    assert not (averaged.ranking("vanilla/seed_1") / "train.npz").exists()
    ranking = files.read_npz(averaged.ranking("vanilla/seed_1") / "test.npz")
    methods = files.read_json(averaged.evaluation)["methods"]
    correct = ranking["predicted"] == ranking["label"]
    found = methods["vanilla"]["runs"]["1"]["subsets"]
    np.testing.assert_allclose(found["accuracy"], metrics.subset_means(correct, ranking["subset"], R))
    # Nobody ranked by the weights of seed 0 yet, and nobody can by an ensemble's.
    assert methods["vanilla"]["runs"]["0"]["subsets"] == methods["ensemble_vanilla"]["runs"]["0"]["subsets"] == {}


@pytest.mark.parametrize("name", ["ensemble_vanilla", NAME])
def test_an_ensemble_loads_as_one_classifier(lockstep, name):
    logits_fn, variables = arada.load(lockstep.run(name, 0))
    images = Experiment(tiny(name), lockstep.path).splits["test"].image[:8]
    found = jax.nn.softmax(logits_fn(variables, images))
    np.testing.assert_allclose(found, predicted(lockstep, name, "test")[0][:8], atol=1e-5)


def test_a_run_from_before_there_were_ensembles_loads(averaged, tmp_path):
    run_dir = averaged.run("vanilla", 0)
    stored = files.read_json(run_dir / "config.json")
    del stored["config"]["ensemble"]
    files.write_json(files.absolute(tmp_path) / "config.json", stored)
    (tmp_path / "checkpoints").symlink_to(run_dir / "checkpoints")
    trained.check_single(files.absolute(tmp_path))
    _, variables = arada.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, variables, arada.load(run_dir)[1])


def test_soft_labels_follow_the_mean_prediction(lockstep):
    """Eq. (3) from the logged means, and the last of those again from the members' stored logits."""
    expected = np.ones(R)
    for row in of_epochs(lockstep, NAME):
        np.testing.assert_allclose(by_subset(row, "soft_label"), expected, atol=1e-6)
        gap = by_subset(row, "validation/confidence") - by_subset(row, "validation/accuracy")
        expected = np.clip(expected - ALPHA * gap, 0.1, 1)
    assert np.ptp(expected) > 0.01

    probabilities, labels, ids = predicted(lockstep, NAME, "validation")
    ranking = files.read_npz(lockstep.ranking("vanilla/seed_0") / "validation.npz")
    np.testing.assert_array_equal(ranking["example_id"], ids)
    correct = probabilities.argmax(axis=-1) == labels
    for r in range(R):
        inside = ranking["subset"] == r
        assert row[f"validation/confidence/subset_{r:02}"] == pytest.approx(
            probabilities[inside].max(axis=-1).mean(), abs=1e-5
        )
        assert row[f"validation/accuracy/subset_{r:02}"] == pytest.approx(correct[inside].mean())
    # Not what the members' own confidences would say.
    logits = files.read_npz(lockstep.predictions(NAME, 0) / "validation.npz")["logits"]
    assert scipy.special.softmax(logits, axis=-1).max(axis=-1).mean() > probabilities.max(axis=-1).mean() + 1e-3


def test_members_begin_and_learn_apart(lockstep):
    variables = trained.final_variables(lockstep.run(NAME, 0))
    kernel = variables["params"]["Conv_0"]["kernel"]
    assert kernel.shape[0] == M
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1


def test_an_ensemble_of_one_is_its_member(lockstep):
    run(tiny("ar_adals"), lockstep.path, "train")
    config = tiny(NAME, **{"ensemble.members": 1})
    config.name = "of_one"
    run(config, lockstep.path, "train")
    assert rows(lockstep, "of_one") == rows(lockstep, "ar_adals")
    one, alone = (trained.final_variables(lockstep.run(name, 0)) for name in ("of_one", "ar_adals"))
    jax.tree.map(np.testing.assert_array_equal, one, alone)


def test_an_averaged_ensemble_of_one_is_its_run(averaged):
    config = tiny("ensemble_vanilla", **{"ensemble.members": 1})
    config.name = "average_of_one"
    run(config, averaged.path, "evaluate")
    one, alone = (averaged.predictions(name, 0) for name in ("average_of_one", "vanilla"))
    for split in ("test", "validation", "noise_1"):
        jax.tree.map(np.testing.assert_array_equal, *(files.read_npz(of / f"{split}.npz") for of in (one, alone)))
    methods = files.read_json(averaged.evaluation)["methods"]
    for key in ("test", "validation", "shift", "calibrated"):
        assert methods["average_of_one"]["runs"]["0"][key] == methods["vanilla"]["runs"]["0"][key]


def test_a_killed_ensemble_ends_in_the_same_numbers(lockstep, monkeypatch):
    config = tiny(NAME, **{"run.checkpoint_every_steps": 2})
    config.name = "killed"
    real = Checkpoints.save

    def dying(checkpoints, step, *args):
        real(checkpoints, step, *args)
        if step == 6:  # amid the second of three epochs of four steps
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            run(config, lockstep.path, "train")
    assert rows(lockstep, "killed")[-1]["step"] == 6
    run(config, lockstep.path, "train")
    assert rows(lockstep, "killed") == rows(lockstep, NAME)
    again, untouched = (trained.final_variables(lockstep.run(name, 0)) for name in ("killed", NAME))
    jax.tree.map(np.testing.assert_array_equal, again, untouched)


def test_members_may_have_ranks_of_their_own(lockstep):
    config = tiny(NAME, **{"ensemble.ranks": "per_member"})
    config.name = "per_member"
    run(config, lockstep.path, "vanilla", "rank", "train", "evaluate")
    probabilities, labels, _ = predicted(lockstep, "per_member", "validation")
    split = Experiment(config, lockstep.path).splits["validation"]
    of_members = [stored_subsets(lockstep.ranking(f"vanilla/seed_{m}"), "validation", split, R) for m in range(M)]
    assert not np.array_equal(*of_members)
    last = of_epochs(lockstep, "per_member")[-1]
    confidence, correct = metrics.confidence_and_correct(probabilities, labels)
    for quantity, values in (("confidence", confidence), ("accuracy", correct)):
        expected = np.mean([metrics.subset_means(values, subset, R) for subset in of_members], axis=0)
        np.testing.assert_allclose(by_subset(last, f"validation/{quantity}"), expected, atol=1e-5)
    assert not np.array_equal(by_subset(last, "soft_label"), by_subset(of_epochs(lockstep, NAME)[-1], "soft_label"))
    config.ensemble.ranks = "shared"
    with pytest.raises(UserError, match=r"ensemble.ranks was per_member and is now shared"):
        run(config, lockstep.path, "train")


@pytest.mark.parametrize("name", ["ensemble_vanilla", NAME])
def test_an_ensemble_ranks_nothing(lockstep, name):
    with pytest.raises(UserError, match=f"runs/{name}/seed_0 is an ensemble, but attacks take one network"):
        run(tiny("ar_adals", **{"ranking.source": f"{name}/seed_0"}), lockstep.path, "rank")
    assert not (lockstep.path / "robustness" / name).exists()


def test_runs_of_another_config_are_not_averaged(averaged):
    before = averaged.runs()
    config = tiny("ensemble_vanilla", **{"name": "ensemble", "optimizer.learning_rate": 0.5})
    message = r"runs/vanilla/seed_0 .* optimizer.learning_rate was 0.001 and is now 0.5. Set them back"
    for stage in ("train", "evaluate"):
        with pytest.raises(UserError, match=message):
            run(config, averaged.path, stage)
    assert averaged.runs() == before


def test_another_number_of_members_is_another_ensemble(averaged):
    with pytest.raises(UserError, match=r"ensemble_vanilla/seed_0 was made .* ensemble.members was 2 and is now 1"):
        run(tiny("ensemble_vanilla", **{"ensemble.members": 1}), averaged.path, "evaluate")


def test_each_member_is_ranked_by_the_vanilla_run_of_its_own_seed(averaged):
    config = tiny("ensemble_ar_adals")
    run(config, averaged.path, "vanilla", "rank", "train")
    for seed in range(M):
        ranking = averaged.ranking(f"vanilla/seed_{seed}") / "validation.npz"
        level = stored_subsets(ranking.parent, "validation", Experiment(config, averaged.path).splits["validation"], R)
        run(tiny("ar_adals", seeds=(seed,)), averaged.path, "evaluate")
        stored = files.read_npz(averaged.predictions("ar_adals", seed) / "validation.npz")
        correct = stored["logits"][0].argmax(axis=-1) == stored["label"]
        last = [row for row in rows(averaged, "ar_adals", seed) if "soft_label/subset_00" in row][-1]
        np.testing.assert_allclose(
            by_subset(last, "validation/accuracy"), [correct[level == r].mean() for r in range(R)], atol=1e-6
        )
