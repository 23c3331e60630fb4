"""Rankings: their file, whoever wrote it, and the subsets cut from them."""

import dataclasses

import numpy as np
import pytest

from arada.data.splits import Split
from arada.errors import UserError
from arada.runs.ranks import Ranking, stored_subsets
from arada.runtime import files

COUNT = 18
IDS = np.arange(100, 100 + 3 * COUNT, 3, dtype=np.int32)


@pytest.fixture
def split():
    return Split(np.zeros((COUNT, 2, 2, 1), np.float32), np.arange(COUNT, dtype=np.int32) % 3, IDS)


def four(**fields):
    """Four images; the attack failed on the second."""
    arrays = {
        "example_id": np.int32([2, 5, 7, 9]),
        "score": np.float32([0.5, np.inf, 0.25, 1.0]),
        "kind": "distance",
        "label": np.int32([0, 1, 1, 0]),
        "predicted": np.int32([0, 1, 0, 0]),
    }
    return Ranking(**arrays | fields)


def test_numbers_by_hand():
    ranking = four()
    assert len(ranking) == 4
    np.testing.assert_array_equal(ranking.subsets(2), [0, 1, 0, 1])
    np.testing.assert_array_equal(ranking.subsets(4), [1, 3, 0, 2])
    np.testing.assert_array_equal(ranking.correct, [True, True, False, True])
    assert ranking.success_rate == 0.75


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"kind": "score", "predicted": None},
        {"estimate": np.float32([0.5, 0.5, 0.25, 2]), "refined": np.array([True, True, False, False])},
    ],
)
def test_what_is_written_is_read(tmp_path, fields):
    ranking = four(**fields)
    ranking.write(tmp_path / "train.npz", ranking.subsets(2))
    there = files.read_npz(tmp_path / "train.npz")
    assert there.keys() == {"example_id", ranking.kind, "subset", *("label", "predicted", "estimate", "refined")} - {
        field.name for field in dataclasses.fields(ranking) if getattr(ranking, field.name) is None
    }
    np.testing.assert_array_equal(there["subset"], [0, 1, 0, 1])
    read = Ranking.read(tmp_path / "train.npz")
    assert read.kind == ranking.kind
    for field in ("example_id", "score", "label", "predicted", "estimate", "refined"):
        expected, found = getattr(ranking, field), getattr(read, field)
        np.testing.assert_array_equal(found, expected)
        assert expected is None or found.dtype == expected.dtype


def test_subsets_at_some_images_are_cut_from_all():
    np.testing.assert_array_equal(four().subsets_at(np.int32([9, 2]), 4), [2, 1])
    for other in ([2, 3], [10]):
        with pytest.raises(LookupError):
            four().subsets_at(np.int32(other), 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distance": np.float32([1, np.nan])}, "does not hold a distance of each image; delete it and rank again"),
        ({"distance": np.float32([1])}, "does not hold a distance of each image"),
        ({"label": np.int32([1])}, "does not hold a distance of each image"),
        ({"distance": np.int32([1, 2])}, "has no array distance of kind 'f' and 1 axes"),
        ({"example_id": np.float32([1, 2])}, "has no array example_id of kind 'i' and 1 axes"),
    ],
)
def test_a_file_that_is_no_ranking_is_refused(tmp_path, changes, message):
    arrays = {"example_id": np.int32([1, 2]), "distance": np.float32([1, 2])}
    files.write_npz(tmp_path / "train.npz", arrays | changes)
    with pytest.raises(UserError, match=message):
        Ranking.read(tmp_path / "train.npz")


def test_distances_may_have_to_come_with_labels(tmp_path):
    arrays = {"example_id": np.int32([1, 2]), "distance": np.float32([1, 2]), "label": np.int32([0, 1])}
    files.write_npz(tmp_path / "attack.npz", arrays)
    with pytest.raises(UserError, match="has no array predicted"):
        Ranking.read(tmp_path / "attack.npz", labelled=True)
    files.write_npz(tmp_path / "control.npz", {"score" if key == "distance" else key: arrays[key] for key in arrays})
    assert Ranking.read(tmp_path / "control.npz", labelled=True).kind == "score"


@pytest.fixture
def stored(tmp_path, split):
    """A ranking whose rows are permuted, as another tool may write it; distances grow with the id."""
    rows = np.random.default_rng(1).permutation(COUNT)
    distance = np.arange(1, 1 + COUNT, dtype=np.float32)
    files.write_npz(tmp_path / "train.npz", {"example_id": IDS[rows], "distance": distance[rows]})
    return tmp_path


def test_subsets_are_joined_by_id(stored, split):
    found = stored_subsets(stored, "train", split, 6)
    np.testing.assert_array_equal(found, np.repeat(np.arange(6), 3))
    assert found.dtype == np.int32


def test_ties_go_to_the_lower_id_in_any_order_of_rows(tmp_path, split):
    files.write_npz(tmp_path / "train.npz", {"example_id": IDS[::-1], "distance": np.full(COUNT, np.inf)})
    np.testing.assert_array_equal(stored_subsets(tmp_path, "train", split, 2), np.repeat([0, 1], 9))


@pytest.mark.parametrize("positions", [np.arange(COUNT - 1), np.arange(COUNT) - 1])
def test_other_ids_are_refused(stored, split, positions):
    ids = np.unique(np.where(positions < 0, 1, IDS[positions]))
    other = Split(split.image[: len(ids)], split.label[: len(ids)], ids.astype(np.int32))
    with pytest.raises(UserError, match=r"ranking\.source: .*train\.npz ranks other images than the train split holds"):
        stored_subsets(stored, "train", other, 6)


def test_a_missing_ranking_names_the_stage(tmp_path, split):
    with pytest.raises(UserError, match=r"there is no ranking .*/test\.npz; make it with --stage=rank"):
        stored_subsets(tmp_path, "test", split, 6)
