"""All stages, end to end, on a few digits and a tiny network."""

import json
import shutil

import jax
import numpy as np
import pytest

import arada
from arada import attacks
from arada.errors import UserError
from arada.experiment import Experiment
from arada.runs import ranking as rankings
from arada.runs import trained, trainer
from arada.runs import workdir as workdirs
from arada.runs.identity import run_identity, vanilla_config
from arada.runs.workdir import Workdir
from arada.runtime import files
from configs import digits

pytestmark = pytest.mark.usefixtures("one_convolution")


def tiny(method, **overrides):
    """The testing preset on two devices, with one attack short enough for seconds."""
    config = digits.get_config(f"{method},testing")
    config.update_from_flattened_dict({"run.num_devices": 2, "seeds": (0, 1), **overrides})
    return config


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir with two methods run to the end, two seeds each."""
    path = tmp_path_factory.mktemp("experiment")
    for method in ("vanilla", "ar_adals"):
        Experiment(tiny(method), path).run()
    return Workdir(path)


def rows(workdir, name, seed):
    return files.read_json_lines(workdir.run(name, seed) / "metrics.jsonl")


def test_every_image_has_a_robustness_and_equal_subsets(workdir):
    for split, count in {"train": 128, "validation": 128, "test": 1797 - 256}.items():
        ranking = files.read_npz(workdir.ranking("vanilla/seed_0") / f"{split}.npz")
        assert {key: value.dtype for key, value in ranking.items()} == {
            "example_id": np.int32,
            "distance": np.float32,
            "subset": np.int32,
            "label": np.int32,
            "predicted": np.int32,
        }
        assert len(np.unique(ranking["example_id"])) == count
        assert np.ptp(np.bincount(ranking["subset"], minlength=10)) <= 1
        assert np.all(ranking["distance"] > 0)
        np.testing.assert_array_equal(ranking["subset"], attacks.equal_subsets(ranking["distance"], 10))


def test_several_runs_rank_by_one_program(workdir, tmp_path, monkeypatch):
    rankers, make = [], rankings.Ranker

    def counted(*args, **fields):
        rankers.append(make(*args, **fields))
        return rankers[-1]

    monkeypatch.setattr(rankings, "Ranker", counted)
    shutil.copytree(workdir.path, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "robustness")
    Experiment(tiny("ar_adals"), tmp_path).run("rank")
    assert len(rankers) == 1
    for seed in (0, 1):
        again, before = (of.ranking(f"vanilla/seed_{seed}") / "validation.npz" for of in (Workdir(tmp_path), workdir))
        np.testing.assert_array_equal(files.read_npz(again)["distance"], files.read_npz(before)["distance"])


def test_soft_labels_follow_equation_3_over_epochs(workdir):
    by_epoch = [row for row in rows(workdir, "ar_adals", 0) if "soft_label/subset_00" in row]
    assert [row["epoch"] for row in by_epoch] == [1, 2, 3]
    expected = np.ones(10)
    for row in by_epoch:
        np.testing.assert_allclose([row[f"soft_label/subset_{r:02}"] for r in range(10)], expected, atol=1e-6)
        confidence = np.array([row[f"validation/confidence/subset_{r:02}"] for r in range(10)])
        accuracy = np.array([row[f"validation/accuracy/subset_{r:02}"] for r in range(10)])
        expected = np.clip(
            expected - digits.METHODS["ar_adals"]["soft_labels.alpha"][0][1] * (confidence - accuracy), 0.1, 1
        )


def test_vanilla_keeps_one_hot_labels(workdir):
    labels = [row["soft_label/subset_00"] for row in rows(workdir, "vanilla", 0) if "soft_label/subset_00" in row]
    assert labels == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("method", "overrides"),
    [("adals", {"soft_labels.alpha": ((0, 1e-12),)}), ("label_smoothing", {"soft_labels.epsilon": 0.0})],
)
def test_a_method_that_smooths_nothing_is_vanilla(workdir, tmp_path, method, overrides):
    Experiment(tiny(method, **overrides, seeds=(0,)), tmp_path).run("train")

    def without_speed(of):
        return [{key: value for key, value in row.items() if key != "images_per_second"} for row in of]

    assert without_speed(rows(Workdir(tmp_path), method, 0)) == without_speed(rows(workdir, "vanilla", 0))
    run_dirs = Workdir(tmp_path).run(method, 0), workdir.run("vanilla", 0)
    jax.tree.map(np.testing.assert_array_equal, *map(trained.final_variables, run_dirs))


def test_predictions_hold_every_example_once(workdir):
    stored = files.read_npz(workdir.predictions("ar_adals", 1) / "noise_5.npz")
    assert stored["logits"].shape == (1, 1797 - 256, 10)
    assert len(np.unique(stored["example_id"])) == 1797 - 256
    outside = files.read_npz(workdir.predictions("ar_adals", 1) / "ood_photographs.npz")
    assert np.all(outside["label"] == -1)


def test_evaluation_agrees_with_the_stored_predictions(workdir):
    evaluation = files.read_json(workdir.evaluation)
    assert list(evaluation["methods"]) == ["ar_adals", "vanilla"]
    stored = files.read_npz(workdir.predictions("vanilla", 1) / "test.npz")
    accuracy = np.mean(stored["logits"][0].argmax(axis=-1) == stored["label"])
    run = evaluation["methods"]["vanilla"]["runs"]["1"]
    assert run["test"]["accuracy"] == pytest.approx(accuracy)
    assert sum(run["subsets"]["count"]) == len(stored["label"])
    assert np.average(run["subsets"]["accuracy"], weights=run["subsets"]["count"]) == pytest.approx(accuracy)
    assert [len(values) for values in run["shift"].values()] == [2, 2]
    assert evaluation["methods"]["vanilla"]["variance"]["test"] > 0


@pytest.mark.parametrize("seed", [0, 1])
def test_each_run_learns_from_subsets_of_the_vanilla_run_of_its_own_seed(workdir, seed):
    stored = files.read_npz(workdir.predictions("ar_adals", seed) / "validation.npz")
    correct = stored["logits"][0].argmax(axis=-1) == stored["label"]
    last = [row for row in rows(workdir, "ar_adals", seed) if "soft_label/subset_00" in row][-1]
    logged = [last[f"validation/accuracy/subset_{r:02}"] for r in range(10)]

    def by_ranks_of(vanilla):
        ranking = files.read_npz(workdir.ranking(f"vanilla/seed_{vanilla}") / "validation.npz")
        np.testing.assert_array_equal(ranking["example_id"], stored["example_id"])
        return [correct[ranking["subset"] == r].mean() for r in range(10)]

    np.testing.assert_allclose(logged, by_ranks_of(seed), atol=1e-6)
    assert not np.allclose(logged, by_ranks_of(1 - seed), atol=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("method", ["vanilla", "ar_adals"])
def test_each_run_is_reported_by_the_levels_of_its_own_seed(workdir, method, seed):
    evaluation = files.read_json(workdir.evaluation)
    stored = files.read_npz(workdir.predictions(method, seed) / "test.npz")
    correct = stored["logits"][0].argmax(axis=-1) == stored["label"]
    level = files.read_npz(workdir.ranking(f"vanilla/seed_{seed}") / "test.npz")["subset"]
    found = evaluation["methods"][method]["runs"][str(seed)]["subsets"]["accuracy"]
    np.testing.assert_allclose(found, [correct[level == r].mean() for r in range(10)])


def test_the_evaluation_says_whose_rankings_it_used(workdir):
    ranking = files.read_json(workdir.evaluation)["experiment"]["ranking"]
    assert (ranking["source"], ranking["sources"]) == ("vanilla/seed_{seed}", ["vanilla/seed_0", "vanilla/seed_1"])
    of_seeds = [files.read_npz(workdir.ranking(source) / "test.npz") for source in ranking["sources"]]
    found = [np.mean(of["predicted"] == of["label"]) for of in of_seeds]
    assert found[0] != found[1]
    assert ranking["accuracy"]["test"] == pytest.approx(np.mean(found))


def test_one_ranking_may_serve_all_seeds(workdir):
    config = tiny("ar_adals", **{"ranking.source": "vanilla/seed_0"})
    config.name = "shared"
    Experiment(config, workdir.path).run("train")
    # Seed 0 has the same ranks either way, seed 1 has not.
    for seed, same in ((0, True), (1, False)):
        ours, theirs = (trained.final_variables(workdir.run(name, seed)) for name in ("ar_adals", "shared"))
        pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs) == same


def test_a_control_draws_another_partition_for_each_seed(workdir):
    Experiment(tiny("ar_adals_by_random"), workdir.path).run("rank")
    drawn = [files.read_npz(workdir.ranking(f"vanilla/seed_{seed}", "random") / "train.npz") for seed in (0, 1)]
    # Independent ones agree on a tenth of the images.
    assert np.mean(drawn[0]["subset"] == drawn[1]["subset"]) < 0.3


def test_a_seed_without_its_vanilla_run_names_the_command_that_makes_it(workdir):
    config = tiny("ar_adals", seeds=(0, 1, 7))
    for stage in ("rank", "train"):
        with pytest.raises(
            UserError, match=r"no run .*vanilla/seed_7.*; train it by the same command with --stage=van"
        ):
            Experiment(config, workdir.path).run(stage)
    with pytest.raises(UserError, match=r"no run .*adals/seed_7; train it by the config of adals with --stage=train"):
        Experiment(tiny("ar_adals", **{"ranking.source": "adals/seed_7"}), workdir.path).run("rank")


def test_a_missing_ranking_is_reported_before_any_seed_is_trained(workdir, tmp_path):
    Experiment(tiny("ar_adals", seeds=(0,)), tmp_path).run("vanilla")
    Experiment(tiny("ar_adals", seeds=(0,)), tmp_path).run("rank")
    Experiment(tiny("vanilla"), tmp_path).run("train")
    with pytest.raises(UserError, match=r"there is no ranking .*vanilla/seed_1/train.npz; make it with --stage=rank"):
        Experiment(tiny("ar_adals"), tmp_path).run("train")
    assert not Workdir(tmp_path).run("ar_adals", 0).exists()


def test_the_run_that_is_ranked_is_vanilla_whatever_is_compared():
    for method in digits.METHODS:
        config = vanilla_config(tiny(method))
        assert run_identity(config, 0, 2) == run_identity(tiny("vanilla"), 0, 2)


def test_the_report_holds_the_means_of_the_evaluation(workdir):
    page = (workdir.path / "report" / "index.html").read_text()
    for method in files.read_json(workdir.evaluation)["methods"].values():
        accuracy = [100 * run["test"]["accuracy"] for run in method["runs"].values()]
        assert f"{np.mean(accuracy):.2f} ± {np.std(accuracy, ddof=1):.2f}" in page
    # Both methods were run, with all that a table asks.
    assert page.count("<svg") > 5


def test_a_trained_run_loads_as_a_classifier(workdir):
    logits_fn, variables = arada.load(workdir.run("ar_adals", 0))
    config = tiny("ar_adals")
    test = Experiment(config, workdir.path).splits["test"]
    stored = files.read_npz(workdir.predictions("ar_adals", 0) / "test.npz")
    np.testing.assert_allclose(logits_fn(variables, test.image[:8]), stored["logits"][0, :8], atol=1e-4)


def test_what_is_there_is_not_made_again(workdir, monkeypatch):
    monkeypatch.setattr(trainer, "Trainer", None)
    monkeypatch.setattr("arada.runs.ranking.attack_step", None)
    before = {path: path.stat().mtime for path in workdir.path.glob("*/*/*/*.npz")}
    Experiment(tiny("ar_adals"), workdir.path).run()
    assert {path: path.stat().mtime for path in workdir.path.glob("*/*/*/*.npz")} == before


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("ar_adals", {"soft_labels.alpha": ((0, 0.5),)}, r"another config: soft_labels.alpha was .* and is now .*"),
        ("ar_adals", {"training.epochs": 4}, r"training.epochs was 3 and is now 4"),
        ("vanilla", {"model.width": 8}, r"holds another experiment .*model.width was 4 and is now 8"),
        ("vanilla", {"data.noise": 0.1}, r"data.noise was 0.4 and is now 0.1"),
        ("adals", {"ranking.fmn.steps": 11}, r"ranking.fmn.steps was 10 and is now 11"),
    ],
)
def test_another_config_is_refused_with_the_fields_that_differ(workdir, method, overrides, message):
    with pytest.raises(UserError, match=message):
        Experiment(tiny(method, **overrides), workdir.path).run()


def test_fields_of_no_consequence_may_differ(workdir):
    overrides = {"run.num_devices": 4, "run.log_every_steps": 7, "evaluation.num_bins": 10, "seeds": (0,)}
    Experiment(tiny("ar_adals", **overrides), workdir.path).run("train")


def test_stages_that_come_too_early_say_what_is_missing(tmp_path):
    config = tiny("ar_adals")
    with pytest.raises(UserError, match=r"no run .*/vanilla/seed_0; train it by the same command with --stage=vanilla"):
        Experiment(config, tmp_path).run("rank")
    with pytest.raises(UserError, match=r"no ranking .*--stage=rank"):
        Experiment(config, tmp_path).run("train")
    with pytest.raises(UserError, match="has not finished training; run --stage=train first"):
        Experiment(config, tmp_path).run("evaluate")


def test_a_ranking_of_other_images_is_refused(workdir, tmp_path):
    config = tiny("ar_adals", **{"ranking.source": str(workdir.ranking("vanilla/seed_0")), "data.split_seed": 1})
    with pytest.raises(UserError, match="ranks other images than the train split holds"):
        Experiment(config, tmp_path).run("train")


def test_a_data_set_that_does_not_exist_is_reported_before_training(tmp_path):
    config = tiny("vanilla", **{"evaluation.out_of_distribution": ("paintings",)})
    with pytest.raises(
        UserError, match=r"evaluation.out_of_distribution must be 'photographs' for digits, not 'paintings'"
    ):
        Experiment(config, tmp_path).run()
    assert not (tmp_path / "runs").exists()


def test_digits_have_no_published_order(tmp_path):
    config = tiny("vanilla", **{"evaluation.shift_source": "published", "evaluation.shifts": ("fog",)})
    config.run.published_dir = str(tmp_path)
    with pytest.raises(UserError, match=r"evaluation.shift_source must be 'simple' for digits"):
        Experiment(config, tmp_path).run()


def test_another_source_leaves_the_first_one_s_predictions_alone(workdir, tmp_path):
    shutil.copytree(workdir.path, tmp_path, dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in tmp_path.glob("predictions/*/*/*.npz")}
    overrides = {"evaluation.shift_source": "published", "evaluation.shifts": ("fog", "contrast")}
    Experiment(tiny("vanilla", **overrides), tmp_path).run("evaluate")
    assert {path: path.read_bytes() for path in tmp_path.glob("predictions/*/*/*.npz")} == before
    said = files.read_json(tmp_path / "evaluation.json")
    reason = "set run.published_dir to the folder of the published files"
    assert said["experiment"]["shift_missing"] == {"fog": reason, "contrast": reason}
    assert said["methods"]["vanilla"]["runs"]["0"]["shift"] == {}
    Experiment(tiny("vanilla", **{"evaluation.max_examples_per_shift": 100}), tmp_path).run("evaluate")
    assert len(files.read_npz(tmp_path / "predictions/vanilla/seed_0/noise_1_of_100.npz")["label"]) == 100
    after = {path: path.read_bytes() for path in before}
    assert after == before


def test_a_workdir_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory; choose another"):
        Experiment(tiny("vanilla"), tmp_path / "file" / "workdir")


def test_more_devices_than_there_are_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"run\.num_devices is 64, but there are 4"):
        Experiment(tiny("vanilla", **{"run.num_devices": 64}), tmp_path)


def test_the_config_of_a_run_is_kept_beside_it(workdir):
    stored = json.loads((workdir.run("ar_adals", 1) / "config.json").read_text())
    assert stored["identity"]["seed"] == 1
    assert stored["config"]["training"]["epochs"] == 3


def test_predictions_of_weights_that_are_no_more_are_made_again(workdir, tmp_path):
    shutil.copytree(workdir.path, tmp_path / "copy")
    copy = Workdir(tmp_path / "copy")
    stale = files.read_npz(copy.predictions("ar_adals", 1) / "test.npz")["logits"] + 1
    for name, seed in (("ar_adals", 1), ("vanilla", 1)):
        stored = files.read_npz(copy.predictions(name, seed) / "test.npz")
        files.write_npz(copy.predictions(name, seed) / "test.npz", stored | {"logits": stale})
    # As if seed 1 of one method had been deleted and trained again.
    made = workdirs.stored(copy.predictions("ar_adals", 1))
    made["identity"]["weights"] += 1
    files.write_json(copy.predictions("ar_adals", 1) / "config.json", made)
    Experiment(tiny("ar_adals"), copy.path).predict()
    expected = files.read_npz(workdir.predictions("ar_adals", 1) / "test.npz")["logits"]
    np.testing.assert_array_equal(files.read_npz(copy.predictions("ar_adals", 1) / "test.npz")["logits"], expected)
    # What was not asked for, and what is of these weights, stays.
    np.testing.assert_array_equal(files.read_npz(copy.predictions("vanilla", 1) / "test.npz")["logits"], stale)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"method.name": "mixup"}, r"name is 'vanilla', but method is absent in vanilla training and .*mixup.* here"),
        ({"soft_labels.epsilon": 0.1}, r"soft_labels.epsilon is 0.0 in vanilla training and 0.1 here; name the method"),
    ],
)
def test_only_vanilla_training_is_called_vanilla(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        Experiment(tiny("vanilla", **overrides), tmp_path)
    Experiment(tiny("vanilla", name="mine", **overrides), tmp_path)


def test_another_seed_with_another_config_is_refused_before_training(workdir, monkeypatch):
    monkeypatch.setattr(trainer, "Trainer", None)
    config = tiny("ar_adals", **{"soft_labels.alpha": ((0, 0.5),), "seeds": (7,)})
    with pytest.raises(UserError, match=r"runs/ar_adals/seed_\d was made with another config: soft_labels.alpha was"):
        Experiment(config, workdir.path).run()


def test_ranks_of_another_attack_are_refused_in_training(workdir):
    config = tiny("ar_adals", **{"ranking.fmn.steps": 11, "name": "ar_adals_longer"})
    with pytest.raises(UserError, match=r"robustness/vanilla/seed_0 was made with another config: ranking.fmn.steps"):
        Experiment(config, workdir.path).run("train")


def test_a_run_may_be_evaluated_but_not_trained_on_other_devices(tmp_path):
    config = tiny("vanilla", **{"model.batch_norm": "per_device", "seeds": (0,)})
    workdirs.claim(Workdir(tmp_path).run("vanilla", 0), run_identity(config, 0, 4), config)
    with pytest.raises(UserError, match="has not finished training"):
        Experiment(config, tmp_path).run("evaluate")
    with pytest.raises(UserError, match="num_devices was 4 and is now 2"):
        Experiment(config, tmp_path).run("train")


def test_a_refused_start_owns_nothing(tmp_path):
    """Labels are 0..9: the command with the right number of classes goes on in the same folder."""
    folder = tmp_path / "größe {2} ~"
    with pytest.raises(UserError, match=r"data.num_classes is 5, but labels of the train split range from 0 to 9"):
        Experiment(tiny("vanilla", **{"data.num_classes": 5, "seeds": (0,)}), folder).run("vanilla")
    assert not (folder / "runs").exists()
    Experiment(tiny("vanilla", **{"seeds": (0,), "training.epochs": 1}), folder).run("vanilla")
    assert (folder / "runs" / "vanilla" / "seed_0" / "checkpoints").exists()
