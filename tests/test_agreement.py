"""The study of how cheap attacks rank: its figures by hand, and a small study end to end."""

import functools
import json

import numpy as np
import pytest

from arada import agreement
from arada.errors import UserError
from arada.evaluation import summary
from arada.runs import workdir as workdirs
from arada.runs.identity import run_identity
from arada.runs.ranks import Ranking
from arada.runs.workdir import Workdir
from arada.runtime import files
from configs import cifar10, digits

pytestmark = pytest.mark.usefixtures("quickly_compiled")

CONFIDENCE = agreement.Candidate("confidence", "confidence", "", {}, 0)
ESTIMATE = agreement.Candidate("estimate alone", "estimate", "estimate", {"candidates": 1}, 1)
FMN = agreement.Candidate("FMN 2", "attack", "fmn", {"steps": 2}, 2)
REFINED = agreement.Candidate("refined", "attack", "first_order", {"candidates": 1, "refine_steps": 2}, 1)
CW = agreement.Candidate("CW 2x200", "attack", "cw", {"binary_search_steps": 2, "max_iterations": 200}, 400)


class Linear:
    """A classifier of ten classes with the interface of a flax module."""

    @staticmethod
    def apply(weights, images, train):
        assert not train
        return images.reshape(len(images), -1) @ weights["params"]["kernel"]


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """The folder of a run whose network is linear; three candidates and a reference, each short."""
    kernel = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    normalization = {"mean": np.full(1, 0.5, np.float32), "scale": np.ones(1, np.float32)}
    variables = {"params": {"kernel": kernel}, "batch_stats": {}, "normalization": normalization}
    monkeypatch.setattr(agreement.trained, "build_ranked", lambda config: Linear())
    monkeypatch.setattr(agreement.trained, "is_finished", lambda folder, config: True)
    monkeypatch.setattr(agreement.trained, "final_variables", lambda folder: variables)
    monkeypatch.setattr(agreement, "CANDIDATES", (CONFIDENCE, ESTIMATE, FMN, REFINED, CW))
    monkeypatch.setattr(agreement, "REFERENCE", CW)
    config = digits.get_config("testing")
    folder = Workdir(tmp_path).run("vanilla", 0)
    workdirs.claim(folder, run_identity(config, 0, 1), config)
    return folder


def ranking(score, kind="distance", predicted=None, **fields):
    """A ranking of images whose label is 0, and so is the predicted class unless it is given."""
    label = np.zeros(len(score), np.int32)
    predicted = label if predicted is None else np.array(predicted, np.int32)
    ids = np.arange(len(score), dtype=np.int32)
    return Ranking(ids, np.array(score, np.float32), kind, label=label, predicted=predicted, **fields)


def test_figures_by_hand():
    """Ten images, one a subset: the candidate swaps the first two of the reference's order."""
    reference = ranking(np.arange(1, 11), predicted=[1] + [0] * 9)
    swapped = ranking(np.array([2, 1, *range(3, 11)]) / 2)
    best = np.minimum(swapped.score, reference.score)
    # Confidence 0.8 for the first image, which is misclassified, and 0.6 for the others: gaps 0.8 and -0.4.
    log_odds = np.log(np.array([0.8 / 0.2] + [0.6 / 0.4] * 9))
    found = agreement.compare(swapped, reference, best, log_odds)
    assert found == pytest.approx(
        {
            "spearman": 1 - 6 * 2 / (10 * 99),
            "same_subset": 0.8,
            "adjacent_subset": 1,
            "median_ratio": 0.5,
            "spearman_of_best": 1,
            "same_subset_of_best": 1,
            "median_ratio_of_best": 1,
            "gap_difference": 1.2,
            "success_rate": 1,
            "median_distance": 2.75,
        }
    )


def test_a_control_has_neither_distance_nor_success():
    reference = ranking(np.arange(10))
    found = agreement.compare(ranking(np.arange(10), "score"), reference, reference.score, np.zeros(10))
    assert set(found) == {
        *("spearman", "same_subset", "adjacent_subset", "gap_difference", "spearman_of_best", "same_subset_of_best")
    }


def test_the_best_distance_is_one_that_was_found():
    cheap = ranking([1, 2, 3])
    refined = ranking([0.5, 0.4, 0.3], refined=np.array([True, False, False]))
    found = agreement.best_distance([cheap, ranking(np.zeros(3), "score"), refined])
    np.testing.assert_array_equal(found, [0.5, 2, 3])


def test_an_attack_that_fails_everywhere_has_no_figures_that_json_cannot_hold():
    with np.errstate(invalid="ignore"):
        found = agreement.compare(ranking(np.full(10, np.inf)), ranking(np.arange(10)), np.arange(10.0), np.zeros(10))
    assert found["median_distance"] is None
    assert found["success_rate"] == 0
    json.dumps(found, allow_nan=False)


def test_a_study_of_a_run(run_dir, monkeypatch):
    monkeypatch.setattr(agreement.Study, "_seconds", lambda *_: 0.5)
    found = agreement.run(agreement.Study(run_dir, examples=40, batch_size=16), 40)
    assert [row["name"] for row in found["candidates"]] == [
        "confidence",
        "estimate alone",
        "FMN 2",
        "refined",
        "CW 2x200",
    ]
    confidence, estimate, fmn, refined, cw = found["candidates"]
    for split in agreement.SPLITS:
        assert cw[split]["spearman"] == pytest.approx(1)
        assert cw[split]["same_subset"] == 1
        assert cw[split]["gap_difference"] == 0
        # The network is linear: one step to the runner-up is nearly all there is.
        assert min(fmn[split]["spearman"], refined[split]["spearman"], estimate[split]["spearman"]) > 0.95
        assert "success_rate" not in estimate[split]
        assert confidence[split]["spearman"] < fmn[split]["spearman"]
        assert cw[split]["success_rate"] == fmn[split]["success_rate"] == 1
    assert fmn["gradients"] == 2
    assert 1 <= refined["gradients"] < 3
    assert fmn["images_per_second"] == 32
    # Carlini-Wagner was timed at a 25th of its iterations; a refined image waits for the second attack too.
    assert cw["images_per_second"] == pytest.approx(32 / 25)
    assert 16 <= refined["images_per_second"] <= 32
    table = [" ".join(line.split()) for line in agreement.table(found).splitlines()]  # cells are padded
    assert len(table) == 2 + 5 + 2
    assert table[-1] == "Two numbers in a cell: 40 training and 40 validation images."
    assert table[3].startswith("| estimate alone | 1 | - | - | ")
    assert table[4].startswith("| FMN 2 | 2 | 100.0 / 100.0 | ")
    assert table[2].startswith("| confidence | - | - | - | ")


def test_a_study_goes_on_where_it_was(run_dir, monkeypatch):
    settings = {"examples": 20, "batch_size": 8}
    first = agreement.Study(run_dir, **settings).rank(FMN)
    monkeypatch.setattr("arada.training.streaming.batches_over", None)
    again = agreement.Study(run_dir, **settings).rank(FMN)
    for split in agreement.SPLITS:
        assert len(first[split]) == 20
        np.testing.assert_array_equal(again[split].score, first[split].score)
    with pytest.raises(UserError, match="examples was 20 and is now 30"):
        agreement.Study(run_dir, examples=30, batch_size=8)


def test_mistakes_are_reported(run_dir, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--examples is 5; it must lie between 10 and .* data.num_train=128"):
        agreement.Study(run_dir, examples=5, batch_size=4)
    with pytest.raises(UserError, match=r"--batch_size is 6, which cannot be divided among 4 devices"):
        agreement.Study(run_dir, examples=20, batch_size=6)
    monkeypatch.setattr(agreement.trained, "is_finished", lambda folder, config: False)
    with pytest.raises(UserError, match=r"seed_0 has not finished training"):
        agreement.Study(run_dir, examples=20, batch_size=4)
    with pytest.raises(UserError, match=r"is not a run"):
        agreement.Study(tmp_path, examples=20, batch_size=4)


def test_the_report_finds_the_study_of_its_attack(run_dir, tmp_path):
    settings = {
        "fmn": {"steps": 2},
        "cw": {"binary_search_steps": 3, "max_iterations": 500},
        "first_order": {"candidates": 1, "refine_steps": 20},
    }
    rows = [{"attack": of, "settings": settings[of], "train": {"spearman": 0.5}} for of in settings]
    files.write_json(
        run_dir / "agreement" / "agreement.json", {"reference": "CW 3x500", "examples": 40, "candidates": rows}
    )
    of = functools.partial(summary._agreement, Workdir(tmp_path))
    expected = {"spearman": 0.5, "reference": "CW 3x500", "examples": 40}
    assert of("vanilla/seed_0", {"attack": "fmn", "fmn": {"steps": 2}}) == expected
    assert of("vanilla/seed_0", {"attack": "fmn", "fmn": {"steps": 3}}) == {}
    # Settings that the study leaves at an attack's defaults.
    assert of("vanilla/seed_0", {"attack": "fmn", "fmn": {"steps": 2, "passes": 3}}) == expected
    assert of("vanilla/seed_0", {"attack": "fmn", "fmn": {"steps": 2, "passes": 4}}) == {}
    for attack in settings:
        ranked = cifar10.get_config().ranking[attack].to_dict() | settings[attack]
        assert of("vanilla/seed_0", {"attack": attack, attack: ranked}) == expected
    for field, value in {"abort_early": True, "learning_rate": 0.01}.items():
        assert of("vanilla/seed_0", {"attack": "cw", "cw": settings["cw"] | {field: value}}) == {}
    assert of("vanilla/seed_0", {"attack": "first_order", "first_order": {"candidates": 1}}) == {}
    assert of("vanilla/seed_0", {"by": "confidence"}) == {}
    assert of("vanilla/seed_1", {"attack": "fmn", "fmn": {"steps": 2}}) == {}
