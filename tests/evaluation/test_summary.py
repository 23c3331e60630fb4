import json
import logging
import shutil

import numpy as np
import pytest
from scipy import stats

from arada import metrics
from arada.errors import UserError
from arada.evaluation import cache, measure, predictions, summary
from arada.runs import workdir as workdirs
from arada.runs.identity import run_identity
from arada.runs.workdir import Workdir
from arada.runtime import files
from configs import digits

# Six test images by id, two classes; the label is 1 for the odd ones.
IDS = np.array([10, 11, 20, 21, 30, 31], np.int32)
LABELS = np.array([0, 1, 0, 1, 0, 1], np.int32)
# The probability of class 1.
TEST = {0: [0.1, 0.9, 0.2, 0.8, 0.6, 0.4], 1: [0.1, 0.5001, 0.2, 0.8, 0.2, 0.4]}
SETS = ("validation", "noise_1", "noise_2", "blur_1", "blur_2", "ood_photographs")


def test_a_new_time_alone_writes_no_new_file(tmp_path):
    file, evaluation = tmp_path / "evaluation.json", {"experiment": {"time": "1", "pair": (1, 2)}, "methods": {}}
    summary.write(file, evaluation)
    summary.write(file, evaluation | {"experiment": {"time": "2", "pair": (1, 2)}})
    assert files.read_json(file)["experiment"]["time"] == "1"
    summary.write(file, evaluation | {"experiment": {"time": "3", "pair": (1, 3)}})
    assert files.read_json(file)["experiment"] == {"time": "3", "pair": [1, 3]}
    for damaged in ("{", "[]", "{}", '{"experiment": {}}'):
        file.write_text(damaged)
        summary.write(file, evaluation)
        assert files.read_json(file)["experiment"] == {"time": "1", "pair": [1, 2]}


def config_of(name="vanilla", **overrides):
    config = digits.get_config("testing")
    fields = {
        "name": name,
        "ranking.num_subsets": 3,
        "ranking.source": "vanilla/seed_0",
        "evaluation.shifts": ("noise", "blur"),
        "evaluation.severities": (1, 2),
        "evaluation.out_of_distribution": ("photographs",),
        "evaluation.num_bins": 5,
    }
    config.update_from_flattened_dict({**fields, **overrides})
    return config


def both(of_one):
    """Probabilities [N, 2] from those of class 1."""
    return np.stack([1 - np.asarray(of_one), of_one], axis=-1)


def predict(workdir, name, seed, dataset, of_one, labels=LABELS):
    arrays = {"example_id": IDS, "label": labels, "logits": np.log(both(of_one))[None].astype(np.float32)}
    files.write_npz(workdir.predictions(name, seed) / f"{dataset}.npz", arrays)


def add_run(workdir, name, seed, sets=SETS, rows=({"step": 4, "epoch": 1.0, "train/accuracy": 0.5},)):
    """The files of a trained run with predictions on the test images and on `sets`."""
    config = config_of(name)
    identity = run_identity(config, seed, 1)
    for folder in (workdir.run(name, seed), workdir.predictions(name, seed)):
        workdirs.claim(folder, identity, config)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    files.write_bytes(workdir.run(name, seed) / "metrics.jsonl", lines.encode())
    predict(workdir, name, seed, "test", TEST[seed])
    for dataset in sets:
        outside = dataset.startswith("ood")
        predict(workdir, name, seed, dataset, [0.45] * 6, labels=LABELS * 0 - 1 if outside else LABELS)


def rank(workdir, rows=(0, 1, 2, 3, 4, 5), distance=(np.inf, 5, 4, 3, 2, 1), seed=0):
    """A ranking in which robustness falls with the id, and 10 withstood the attack."""
    rows = np.array(rows)
    arrays = {"example_id": IDS, "distance": np.array(distance, np.float32), "label": LABELS, "predicted": LABELS}
    files.write_npz(workdir.ranking(f"vanilla/seed_{seed}") / "test.npz", {key: x[rows] for key, x in arrays.items()})


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path)


def test_a_method_by_hand(workdir):
    rank(workdir)
    for seed in (0, 1):
        add_run(workdir, "adals", seed)
    evaluation = summary.summarize(workdir, config_of("vanilla"))
    method = evaluation["methods"]["adals"]
    assert method["seeds"] == [0, 1]
    # Seed 0 is wrong on 30 and 31, at confidence 0.6 each.
    test = method["runs"]["0"]["test"]
    assert test["accuracy"] == pytest.approx(4 / 6)
    assert test["confidence"] == pytest.approx((0.9 + 0.9 + 0.8 + 0.8 + 0.6 + 0.6) / 6)
    # Bins of a fifth: 0.6 lies in [0.6, 0.8), the others above it.
    assert test["ece"] == pytest.approx((2 * 0.6 + abs(3.4 - 4)) / 6, rel=1e-5)
    assert test["aurc"] == pytest.approx((1 / 5 + 2 / 6) / 6)
    # Class 0 everywhere, with 0.55.
    shifted = method["runs"]["1"]["shift"]
    assert [[of["accuracy"] for of in sets] for sets in shifted.values()] == [[0.5, 0.5], [0.5, 0.5]]
    assert method["runs"]["0"]["validation"]["confidence"] == pytest.approx(0.55)
    # All photographs are less sure than all digits.
    of_photographs = method["runs"]["0"]["ood"]["photographs"]
    assert of_photographs.pop("entropy") == pytest.approx(-0.55 * np.log(0.55) - 0.45 * np.log(0.45))
    assert of_photographs == dict(auroc_confidence=1, auroc_entropy=1, fpr95_confidence=0, fpr95_entropy=0)
    # The least robust third is 31 and 30, both wrong.
    subsets = method["runs"]["0"]["subsets"]
    assert subsets["count"] == [2, 2, 2]
    assert subsets["accuracy"] == [0.0, 1.0, 1.0]
    assert subsets["confidence"] == pytest.approx([0.6, 0.8, 0.9])
    assert subsets["ece"] == pytest.approx([0.6, 0.2, 0.1], rel=1e-5)
    # The two runs differ on 11 (0.9 and 0.5001) and on 30 (0.6 and 0.2); of two numbers the variance is half the
    # square of their difference.
    by_image = [0, 0.3999**2 / 2, 0, 0, 0.4**2 / 2, 0]
    variance = method["variance"]
    assert variance["test"] == pytest.approx(np.mean(by_image), rel=1e-5)
    assert variance["subsets"] == pytest.approx([by_image[4] / 2, 0, by_image[1] / 2], rel=1e-5, abs=1e-12)
    assert variance["shift"] == {"noise": [0.0, 0.0], "blur": [0.0, 0.0]}
    # Seeds have an ECE of their own; the interval is of their mean.
    mean_ece = np.mean([run["test"]["ece"] for run in method["runs"].values()])
    uncertainty = method["uncertainty"]["plain"]
    low, high = uncertainty["images"]["intervals"]["test"]["ece"]
    assert low < mean_ece < high
    errors = [run["test"]["ece"] for run in method["runs"].values()]
    expected = stats.ttest_1samp(errors, 0).confidence_interval(0.95)
    assert uncertainty["seeds"]["intervals"]["test"]["ece"] == pytest.approx((mean_ece, *expected, 2))
    # The reference was not run.
    assert [uncertainty[over]["differences"] for over in ("seeds", "images")] == [{}, {}]
    # Bins [0.6, 0.8) with 0.6 twice, and [0.8, 1] with 0.8 and 0.9 twice each.
    assert (test["ece_floor"], test["ece_p95"]) == pytest.approx(
        metrics.binned_floor(np.float32([0.9, 0.9, 0.8, 0.8, 0.6, 0.6]), num_bins=5)
    )
    # Of two images at 0.6 none, one or both are right: 0, 1 and 2 against 1.2.
    assert subsets["ece_floor"][0] == pytest.approx((0.16 * 1.2 + 0.48 * 0.2 + 0.36 * 0.8) / 2, rel=1e-5)
    experiment = evaluation["experiment"]
    assert experiment["num_examples"] == {"test": 6}
    assert experiment["ranking"]["success_rate"] == {"test": pytest.approx(5 / 6)}
    files.write_json(workdir.evaluation, evaluation)


def test_differences_from_the_reference_are_paired(workdir):
    for name in ("vanilla", "adals"):
        add_run(workdir, name, 0)
    # The same predictions: whatever is resampled, nothing differs.
    methods = summary.summarize(workdir, config_of())["methods"]
    of_adals = methods["adals"]["uncertainty"]
    assert of_adals["plain"]["images"]["differences"]["test"]["ece"] == [0, 0, 0]
    assert of_adals["plain"]["images"]["differences"]["shift"]["accuracy"] == [0, 0, 0]
    # Calibrated, it is compared with the reference after the same calibrator, and the reference with itself before.
    assert of_adals["temperature"]["images"]["differences"]["test"]["nll"] == [0, 0, 0]
    of_vanilla = methods["vanilla"]["uncertainty"]
    assert of_vanilla["plain"]["images"]["differences"] == {}
    difference = of_vanilla["temperature"]["images"]["differences"]["test"]["nll"][0]
    run = methods["vanilla"]["runs"]["0"]
    scaled = run["calibrated"]["temperature"]
    assert difference == pytest.approx(scaled["test"]["nll"] - run["test"]["nll"], abs=1e-6)
    # One seed has no interval over seeds.
    assert of_adals["plain"]["seeds"] == {"intervals": {}, "differences": {}}
    config = config_of(**{"evaluation.reference": "mixup"})
    plain = summary.summarize(workdir, config)["methods"]["adals"]["uncertainty"]["plain"]
    assert plain["images"]["differences"] == {}


@pytest.mark.parametrize("distance", [(np.inf, 5, 4, 3, 2, 1), [np.inf] * 6], ids=["distinct", "ties"])
def test_subsets_are_joined_by_id(workdir, distance):
    rank(workdir, distance=distance)
    add_run(workdir, "vanilla", 0)
    in_order = summary.summarize(workdir, config_of())["methods"]["vanilla"]["runs"]["0"]["subsets"]
    assert len(set(in_order["confidence"])) == 3
    rank(workdir, (3, 0, 5, 1, 4, 2), distance)
    permuted = summary.summarize(workdir, config_of())["methods"]["vanilla"]["runs"]["0"]["subsets"]
    assert permuted == in_order


@pytest.mark.parametrize("rows", [(0, 1, 2, 3, 4), (1, 2, 3, 4, 5), (0, 2, 3, 4, 5)])
def test_a_ranking_of_other_images_is_refused(workdir, rows):
    rank(workdir, rows)
    add_run(workdir, "vanilla", 0)
    with pytest.raises(UserError, match=r"ranking\.source: vanilla/seed_0 ranks other images .* the test split"):
        summary.summarize(workdir, config_of())


def test_without_a_ranking_there_are_no_subsets(workdir):
    for seed in (0, 1):
        add_run(workdir, "vanilla", seed)
    method = summary.summarize(workdir, config_of())["methods"]["vanilla"]
    assert method["runs"]["0"]["subsets"] == {}
    assert method["variance"]["subsets"] is None


def test_each_run_has_the_subsets_of_its_own_seed_s_ranking(workdir):
    rank(workdir)
    rank(workdir, distance=(1, 2, 3, 4, 5, 6), seed=1)
    for name in ("adals", "vanilla"):
        for seed in (0, 1):
            add_run(workdir, name, seed)
    evaluation = summary.summarize(workdir, config_of(**{"ranking.source": "vanilla/seed_{seed}"}))
    for method in evaluation["methods"].values():
        # Seed 0 is wrong on the last two images, its least robust; seed 1 on the last alone, its most robust.
        assert [method["runs"][seed]["subsets"]["accuracy"] for seed in "01"] == [[0.0, 1.0, 1.0], [1.0, 1.0, 0.5]]
        # 11 and 30 vary, by 0.3999^2 / 2 and 0.4^2 / 2: the third and the first subset of seed 0, the others' of 1.
        assert method["variance"]["subsets"] == pytest.approx(
            [0.25 * (0.16 + 0.3999**2) / 2, 0, 0.25 * (0.16 + 0.3999**2) / 2]
        )
    ranking = evaluation["experiment"]["ranking"]
    assert ranking["sources"] == ["vanilla/seed_0", "vanilla/seed_1"]
    assert ranking["success_rate"] == {"test": pytest.approx((5 / 6 + 1) / 2)}


def test_a_control_s_folder_is_no_ranking_of_robustness(workdir):
    folder, config = workdir.path / "by_confidence", config_of()
    config.ranking.source = str(folder)
    workdirs.claim(folder, {"ranking": {"source": "vanilla/seed_0", "by": "confidence"}}, config)
    files.write_npz(folder / "test.npz", {"example_id": IDS, "score": np.arange(6, dtype=np.float32), "label": LABELS})
    add_run(workdir, "vanilla", 0)
    evaluation = summary.summarize(workdir, config)
    assert evaluation["experiment"]["ranking"] == {
        **{"source": str(folder), "sources": [str(folder)], "by": "confidence", "attack": None, "settings": {}},
        **{"success_rate": {}, "accuracy": {}, "agreement": {}},
    }
    assert evaluation["methods"]["vanilla"]["runs"]["0"]["subsets"] == {}


def test_calibrators_are_fitted_on_the_validation_set(workdir):
    """Validation images are right in 3 of 4 cases, at a confidence of 0.9; so are the others but for their labels."""
    add_run(workdir, "vanilla", 0)
    sure = [0.9, 0.9, 0.1, 0.1] * 2
    labels = {"validation": [1, 0, 0, 0] * 2, "test": [1, 1, 0, 0] * 2}
    for dataset in ("test", *SETS):
        arrays = {
            "example_id": np.arange(8, dtype=np.int32),
            "label": np.array(labels.get(dataset, labels["validation"]), np.int32),
            "logits": np.log(both(sure))[None].astype(np.float32),
        }
        files.write_npz(workdir.predictions("vanilla", 0) / f"{dataset}.npz", arrays)
    run = summary.summarize(workdir, config_of())["methods"]["vanilla"]["runs"]["0"]
    assert list(run["calibrated"]) == ["temperature", "ets"]
    found = run["calibrated"]["temperature"]
    # Logits of +-log 9 have to become +-log 3.
    assert found["temperature"] == pytest.approx(2, rel=1e-5)
    assert found["validation"]["ece"] == pytest.approx(0, abs=1e-6)
    assert found["test"]["confidence"] == pytest.approx(0.75, rel=1e-5)
    assert (found["test"]["accuracy"], run["test"]["accuracy"]) == (1, 1)
    assert found["shift"]["noise"][0]["nll"] == pytest.approx(-(3 * np.log(0.75) + np.log(0.25)) / 4, rel=1e-5)
    assert run["shift"]["noise"][0]["nll"] == pytest.approx(-(3 * np.log(0.9) + np.log(0.1)) / 4, rel=1e-5)
    assert run["calibrated"]["ets"]["test"]["confidence"] == pytest.approx(0.75, rel=1e-4)
    assert sum(run["calibrated"]["ets"]["weights"]) == pytest.approx(1)


def test_one_run_has_no_variance(workdir):
    add_run(workdir, "vanilla", 1)
    method = summary.summarize(workdir, config_of())["methods"]["vanilla"]
    assert method["seeds"] == [1]
    assert method["variance"] is None


def test_what_some_runs_were_not_predicted_on_is_left_out(workdir):
    add_run(workdir, "adals", 0)
    add_run(workdir, "adals", 1, sets=[name for name in SETS if name not in ("blur_2", "ood_photographs")])
    add_run(workdir, "vanilla", 0, sets=["validation"])
    # Begun, and not evaluated to the end.
    add_run(workdir, "ar_adals", 0, sets=["noise_1"])
    methods = summary.summarize(workdir, config_of())["methods"]
    assert list(methods) == ["adals", "vanilla"]
    of_adals = methods["adals"]["runs"]
    assert {seed: list(run["shift"]) for seed, run in of_adals.items()} == {"0": ["noise", "blur"], "1": ["noise"]}
    assert {seed: list(run["ood"]) for seed, run in of_adals.items()} == {"0": ["photographs"], "1": []}
    assert list(methods["adals"]["variance"]["shift"]) == ["noise"]
    assert methods["vanilla"]["runs"]["0"]["shift"] == {}
    assert methods["vanilla"]["runs"]["0"]["ood"] == {}


def test_the_experiment_says_what_means_are_over(workdir):
    add_run(workdir, "adals", 0, sets=["validation", "noise_1", "noise_2", "blur_1"])
    said = summary.summarize(workdir, config_of(), predictions.Absent(shift={"blur": "no file"}))["experiment"]
    assert (said["shift_source"], said["shift_severities"], said["shift_max_examples"]) == ("simple", [1, 2], 0)
    assert (said["shift_types"], said["shift_missing"]) == (["noise"], {"blur": "no file"})
    assert (said["ood"], said["ood_missing"]) == ([], {"photographs": "not predicted"})


def test_another_source_s_predictions_are_never_in_a_mean(workdir):
    add_run(workdir, "adals", 0)
    config = config_of(**{"evaluation.shift_source": "generated", "evaluation.shifts": ("contrast", "fog")})
    for name in ("contrast_1", "contrast_2", "generated_fog_1", "generated_fog_2", "generated_contrast_1"):
        predict(workdir, "adals", 0, name, [0.45] * 6)
    evaluation = summary.summarize(workdir, config)
    assert list(evaluation["methods"]["adals"]["runs"]["0"]["shift"]) == ["fog"]
    assert evaluation["experiment"]["shift_missing"] == {"contrast": "not predicted"}
    config.evaluation.max_examples_per_shift = 3
    assert summary.summarize(workdir, config)["experiment"]["shift_types"] == []


def test_intervals_of_a_single_shifted_image(workdir):
    """Every third resample of the test images or so has none of it."""
    for name in ("vanilla", "adals"):
        add_run(workdir, name, 0)
        one = {"example_id": IDS[3:4], "label": LABELS[3:4], "logits": np.log([[[0.3, 0.7]]]).astype(np.float32)}
        for dataset in ("noise_1", "noise_2", "blur_1", "blur_2"):
            files.write_npz(workdir.predictions(name, 0) / f"{dataset}_of_1.npz", one)
    evaluation = summary.summarize(workdir, config_of(**{"evaluation.max_examples_per_shift": 1}))
    of_adals = evaluation["methods"]["adals"]["uncertainty"]["plain"]
    assert of_adals["images"]["intervals"]["shift"]["ece"] == pytest.approx([0.3, 0.3])
    assert of_adals["images"]["differences"]["shift"]["ece"] == pytest.approx([0, 0, 0])
    files.write_json(workdir.evaluation, evaluation)


def test_train_accuracy_is_the_mean_over_the_last_epoch_s_steps(workdir):
    # Three steps an epoch: the last one's rows are means over two steps and over one.
    rows = [
        {"step": 2, "epoch": 2 / 3, "train/accuracy": 0.1},
        {"step": 3, "epoch": 1.0, "train/accuracy": 0.2, "images_per_second": 100.0},
        {"step": 5, "epoch": 5 / 3, "train/accuracy": 0.5, "images_per_second": 300.0},
        {"step": 6, "epoch": 2.0, "train/accuracy": 0.8, "images_per_second": 500.0},
    ]
    add_run(workdir, "vanilla", 0, rows=rows)
    run = summary.summarize(workdir, config_of())["methods"]["vanilla"]["runs"]["0"]
    assert run["train_accuracy"] == pytest.approx((2 * 0.5 + 0.8) / 3)
    assert run["images_per_second"] == 300.0


def test_predictions_of_weights_that_are_gone_are_left_out(workdir, caplog):
    for name in ("adals", "vanilla"):
        add_run(workdir, name, 0)
    shutil.rmtree(workdir.run("adals", 0))
    config = config_of("adals", **{"optimizer.learning_rate": 0.5})
    workdirs.claim(workdir.run("adals", 0), run_identity(config, 0, 1), config)
    with caplog.at_level(logging.WARNING, logger="arada"):
        assert list(summary.summarize(workdir, config_of())["methods"]) == ["vanilla"]
    assert "adals/seed_0 was trained again after its evaluation" in caplog.text


def test_only_what_is_new_is_measured_again(workdir, monkeypatch):
    for name in ("adals", "vanilla"):
        for seed in (0, 1):
            add_run(workdir, name, seed)
    rank(workdir)
    measured, run_metrics, variance = [], measure._run_metrics, measure._variance

    def spied(config, directory, *others):
        measured.append(f"{directory.parent.name}/{directory.name}")
        return run_metrics(config, directory, *others)

    def spied_variance(config, directories, rankings):
        measured.append(next(iter(directories.values())).parent.name)
        return variance(config, directories, rankings)

    monkeypatch.setattr(measure, "_run_metrics", spied)
    monkeypatch.setattr(measure, "_variance", spied_variance)

    def again(**overrides):
        measured.clear()
        return summary.summarize(workdir, config_of(**overrides)), list(measured)

    first, of_first = again()
    everything = ["adals/seed_0", "adals/seed_1", "adals", "vanilla/seed_0", "vanilla/seed_1", "vanilla"]
    assert of_first == everything
    second, of_second = again()
    assert of_second == []
    assert second["methods"] == first["methods"]
    # Predictions that are other numbers, in a file of the same name and size.
    predict(workdir, "adals", 1, "noise_1", [0.3] * 6)
    third, of_third = again()
    assert of_third == ["adals/seed_1", "adals"]
    of_noise = third["methods"]["adals"]["runs"]["1"]["shift"]["noise"][0]
    assert of_noise["confidence"] == pytest.approx(0.7)
    assert again(**{"evaluation.num_bins": 4})[1] == everything
    assert again()[1] == everything  # one file a run: what was there before is gone
    rank(workdir, distance=(1, 2, 3, 4, 5, 6))
    assert again()[1] == everything
    # What nobody can read is as if it were not there.
    (workdir.metrics("vanilla") / "seed_0.npz").write_bytes(b"PK")
    assert again()[1] == ["vanilla/seed_0"]
    monkeypatch.setattr(cache, "code", lambda *_: "another version")
    assert again()[1] == everything
