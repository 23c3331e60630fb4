"""The images of the report's gallery: which ones, attacked as the ranking was, once."""

import shutil

import numpy as np
import pytest
import scipy.special

import arada
from arada import attacks
from arada.evaluation import extremes
from arada.experiment import Experiment
from arada.runtime import files
from configs import digits


def test_the_least_and_the_most_robust_of_each_class_are_chosen():
    # Class 0 by distance: 5, 1, 3, 7, 0, 2, 4; number 8 has no adversarial example. Class 3 has two images only.
    distance = [0.5, 0.2, 0.6, 0.3, 0.7, 0.1, 9.0, 0.4, np.inf, 8.0]
    label = [0, 0, 0, 0, 0, 0, 3, 0, 0, 3]
    assert extremes.chosen(np.array(label), np.array(distance)).tolist() == [0, 1, 2, 3, 4, 5, 6, 9]


def test_of_many_classes_some_are_chosen_evenly():
    found = extremes.chosen(np.arange(1000), np.ones(1000))
    assert found.tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]


def test_nothing_is_chosen_where_nothing_was_found():
    assert extremes.chosen(np.arange(2), np.full(2, np.inf)).tolist() == []


@pytest.fixture(scope="module")
def experiment(one_convolution, tmp_path_factory):
    """A vanilla run of an epoch and its ranking."""
    config = digits.get_config("vanilla,testing")
    # FMN's way to the boundary depends on roundings, which differ between batches of other sizes.
    few = {"training.epochs": 1, "seeds": (0,), "run.num_devices": 2, "ranking.attack": "sdf"}
    config.update_from_flattened_dict(few)
    experiment = Experiment(config, tmp_path_factory.mktemp("gallery"))
    experiment.vanilla()
    experiment.rank()
    return experiment


def write(experiment):
    train = experiment.splits["train"]
    return extremes.write(experiment.workdir, experiment.config, experiment.dataset, train, experiment.replicas)


def test_the_attack_is_that_of_the_ranking(experiment):
    stored = files.read_npz(write(experiment))
    ranked = files.read_npz(experiment.workdir.ranking("vanilla/seed_0") / "train.npz")
    at = np.searchsorted(ranked["example_id"], stored["example_id"])
    assert 20 < len(at) <= 60
    for key in ("example_id", "label", "predicted", "distance"):
        np.testing.assert_array_equal(stored[key], ranked[key][at])
    moved = np.sqrt(np.square(stored["adversarial"] - stored["image"]).sum(axis=(1, 2, 3)))
    # The attack is made again by another program. Where an image lies on a boundary, a rounding decides its distance.
    np.testing.assert_allclose(moved, stored["distance"], rtol=1e-3, atol=1e-5)
    assert np.all(stored["predicted_after"] != stored["predicted"])
    logits_fn, variables = arada.load(experiment.workdir.run("vanilla", 0))
    for image, confidence in (("image", "confidence"), ("adversarial", "confidence_after")):
        probabilities = scipy.special.softmax(logits_fn(variables, stored[image]), axis=-1)
        np.testing.assert_allclose(stored[confidence], probabilities.max(axis=-1), rtol=1e-4)
    # The rank decides the level, whatever the number of levels.
    subset = stored["rank"] * 10 // stored["num_ranked"]
    np.testing.assert_array_equal(subset, attacks.equal_subsets(ranked["distance"], 10)[at])
    assert stored["class_names"].tolist() == list("0123456789")
    train = experiment.splits["train"]
    np.testing.assert_array_equal(stored["image"], train.image[np.searchsorted(train.example_id, stored["example_id"])])


def test_it_is_made_once_and_again_when_the_ranking_changes(experiment, tmp_path, monkeypatch):
    file = write(experiment)
    file.touch()
    before = file.stat().mtime
    with monkeypatch.context() as patched:
        patched.setattr(extremes, "attack_step", None)
        write(experiment)
    assert file.stat().mtime == before
    path = experiment.workdir.ranking("vanilla/seed_0") / "train.npz"
    content, ranked = path.read_bytes(), files.read_npz(path)
    ranked["distance"][0] *= 1.5
    files.write_npz(path, ranked)
    made_from = files.read_npz(write(experiment))["made_from"]
    path.write_bytes(content)
    assert files.read_npz(write(experiment))["made_from"] != made_from


@pytest.mark.parametrize("gone", ["robustness/vanilla/seed_0/train.npz", "runs/vanilla/seed_0/checkpoints"])
def test_without_ranks_or_weights_there_is_none(experiment, tmp_path, gone):
    shutil.copytree(experiment.workdir.path, tmp_path, dirs_exist_ok=True)
    (tmp_path / "gallery.npz").unlink(missing_ok=True)
    path = tmp_path / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert write(Experiment(experiment.config, tmp_path)) is None
    assert not (tmp_path / "gallery.npz").exists()


def test_ranks_from_elsewhere_have_none(experiment, tmp_path):
    config = experiment.config.copy_and_resolve_references()
    config.ranking.source = str(experiment.workdir.ranking("vanilla/seed_0"))
    assert write(Experiment(config, tmp_path)) is None
