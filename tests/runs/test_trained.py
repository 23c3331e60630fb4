"""What was trained is found again, and what was made from other weights is not taken for it."""

import logging
import pathlib
import shutil

import jax
import numpy as np
import pytest

import arada
from arada.errors import UserError
from arada.experiment import Experiment
from arada.runs import ranking as rankings
from arada.runs import trained, trainer
from arada.runs import workdir as workdirs
from arada.runs.workdir import Workdir
from arada.runtime import files
from arada.training.checkpoints import Checkpoints
from arada.training.state import fingerprint
from configs import digits

pytestmark = pytest.mark.usefixtures("one_convolution")

STEPS = 4


def tiny(**overrides):
    config = digits.get_config("vanilla,testing")
    shortest = {
        "seeds": (0,),
        "training.epochs": 1,
        "evaluation.shifts": (),
        "evaluation.out_of_distribution": (),
        # As in test_experiment.py, whose programs these are.
        "run.num_devices": 2,
        "run.log_every_steps": 1,
        "run.checkpoint_every_steps": 1,
    }
    config.update_from_flattened_dict({**shortest, **overrides})
    return config


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A workdir with one run, trained for an epoch and with a checkpoint a step."""
    workdir = Workdir(tmp_path_factory.mktemp("once"))
    Experiment(tiny(), workdir.path).run("vanilla")
    return workdir


def brightness(*_):
    """An attack that takes no time: its distances are of no interest here."""

    def step(variables, batch):
        return {"distance": batch["image"].mean(axis=(1, 2, 3)), "predicted": batch["label"]}

    return step


@pytest.fixture(scope="module")
def finished(once, tmp_path_factory):
    """A copy of it with a ranking and predictions."""
    workdir = Workdir(shutil.copytree(once.path, tmp_path_factory.mktemp("finished") / "copy"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rankings, "check", lambda *_: None)
        patched.setattr(rankings, "attack_step", brightness)
        for stage in ("rank", "evaluate"):
            Experiment(tiny(), workdir.path).run(stage)
    return workdir


@pytest.fixture
def copy(tmp_path):
    """copy(workdir): one that may be spoilt."""
    return lambda workdir: Workdir(shutil.copytree(workdir.path, tmp_path / "copy"))


@pytest.fixture
def run_dir(once, copy):
    """The folder of a finished run."""
    return copy(once).run("vanilla", 0)


def garble(folder):
    folder = pathlib.Path(folder)
    spoilt = [path for path in folder.rglob("*") if path.is_file() and path.name != "_CHECKPOINT_METADATA"]
    assert len(spoilt) > 3
    for path in spoilt:
        path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))


def assert_same_weights(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def weights_differ(one, other):
    return any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def test_a_finished_run_is_a_classifier(run_dir):
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["3", "4"]
    assert trained.is_finished(run_dir, tiny())
    assert not trained.is_finished(run_dir, tiny(**{"training.epochs": 2}))
    logits_fn, variables = arada.load(str(run_dir))
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)
    logits = np.asarray(jax.jit(logits_fn)(variables, images))
    assert logits.shape == (3, 10)
    assert np.ptp(logits, axis=0).min() > 0


def test_a_folder_that_is_no_run(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=f"{path} is not a run .it has no config.json.; name a folder"):
            arada.load(path)


def test_a_run_without_a_checkpoint(run_dir):
    for path in (run_dir / "checkpoints").iterdir():
        shutil.rmtree(path)
    assert not trained.is_finished(run_dir, tiny())
    with pytest.raises(UserError, match=f"there is no checkpoint in {run_dir}/checkpoints; train the run first"):
        arada.load(run_dir)
    shutil.rmtree(run_dir / "checkpoints")
    assert not trained.is_finished(run_dir, tiny())
    with pytest.raises(UserError, match=f"there is no checkpoint in {run_dir}; train the run first"):
        arada.load(run_dir)
    # Looking for one makes none.
    assert not (run_dir / "checkpoints").exists()


def test_an_empty_folder_with_a_number_is_no_checkpoint(once, run_dir):
    _, expected = arada.load(once.run("vanilla", 0))
    (run_dir / "checkpoints" / "999").mkdir()
    assert trained.is_finished(run_dir, tiny())
    assert_same_weights(arada.load(run_dir)[1], expected)
    # Nor is one in place of the last.
    shutil.rmtree(run_dir / "checkpoints" / str(STEPS))
    (run_dir / "checkpoints" / str(STEPS)).mkdir()
    assert not trained.is_finished(run_dir, tiny())
    assert weights_differ(arada.load(run_dir)[1], expected)


def test_a_broken_newest_checkpoint_is_passed_over(once, run_dir, caplog):
    garble(run_dir / "checkpoints" / str(STEPS))
    with caplog.at_level(logging.WARNING, logger="arada"):
        _, found = arada.load(run_dir)
    assert f"checkpoint {run_dir}/checkpoints/{STEPS} cannot be read and is skipped" in caplog.text
    shutil.rmtree(run_dir / "checkpoints" / str(STEPS))
    assert_same_weights(found, arada.load(run_dir)[1])
    assert weights_differ(found, arada.load(once.run("vanilla", 0))[1])


def test_nothing_is_ranked_or_predicted_with_half_trained_weights(once, copy):
    workdir = copy(once)
    shutil.rmtree(workdir.run("vanilla", 0) / "checkpoints" / str(STEPS))
    with pytest.raises(UserError, match=r"vanilla/seed_0 has not finished training; run --stage=vanilla first"):
        Experiment(tiny(), workdir.path).run("rank")
    with pytest.raises(UserError, match=r"vanilla/seed_0 has not finished training; run --stage=train first"):
        Experiment(tiny(), workdir.path).run("evaluate")
    assert not (workdir.path / "robustness").exists()
    assert not (workdir.path / "predictions").exists()


@pytest.fixture
def retrained(finished, copy, monkeypatch):
    """A finished workdir whose run was deleted and trained again with another learning rate, and its config."""

    class Trainer:
        """As if it had trained: the weights of before will do."""

        def __init__(self, *_):
            pass

        def train(self, seed):
            shutil.copytree(finished.run("vanilla", 0) / "checkpoints", workdir.run("vanilla", seed) / "checkpoints")

    workdir, config = copy(finished), tiny(**{"optimizer.learning_rate": 0.5})
    shutil.rmtree(workdir.run("vanilla", 0))
    monkeypatch.setattr(trainer, "Trainer", Trainer)
    Experiment(config, workdir.path).run("vanilla")
    assert trained.is_finished(workdir.run("vanilla", 0), config)
    return workdir, config


def test_the_ranking_of_other_weights_is_refused(retrained):
    workdir, config = retrained
    before = files.read_npz(workdir.ranking("vanilla/seed_0") / "train.npz")
    message = (
        r"robustness/vanilla/seed_0 was made with another config: source_run\.optimizer\.learning_rate was 0\.001 "
        r"and is now 0\.5"
    )
    with pytest.raises(UserError, match=message):
        Experiment(config, workdir.path).run("rank")
    after = files.read_npz(workdir.ranking("vanilla/seed_0") / "train.npz")
    np.testing.assert_array_equal(after["distance"], before["distance"])


def test_the_predictions_of_other_weights_are_made_again(retrained):
    workdir, config = retrained
    folder = workdir.predictions("vanilla", 0)
    made = {file.name for file in folder.iterdir()}
    (folder / "test.npz").write_bytes(b"")
    Experiment(config, workdir.path).predict()
    assert workdirs.stored(folder)["identity"]["optimizer"]["learning_rate"] == 0.5
    assert {file.name for file in folder.iterdir()} == made
    assert len(files.read_npz(folder / "test.npz")["label"]) > 0


def test_a_run_with_the_weights_of_before_is_refused_nothing(finished, monkeypatch):
    monkeypatch.setattr("arada.runs.ranking.rank", None)
    monkeypatch.setattr("arada.evaluation.predictions.predict", None)
    for stage in ("vanilla", "rank", "train", "evaluate"):
        Experiment(tiny(), finished.path).run(stage)
    stored = workdirs.stored(finished.ranking("vanilla/seed_0"))["identity"]
    weights = {"weights": fingerprint(trained.final_variables(finished.run("vanilla", 0)))}
    assert stored["source_run"] == workdirs.stored(finished.run("vanilla", 0))["identity"] | weights


def test_the_fingerprint_of_the_last_weights_is_read_or_computed(finished, monkeypatch):
    run_dir = finished.run("vanilla", 0)
    expected = fingerprint(trained.final_variables(run_dir))
    with monkeypatch.context() as patch:
        patch.setattr(trained, "final_variables", None)
        assert trained.final_fingerprint(run_dir) == expected
    monkeypatch.setattr(Checkpoints, "weights", lambda *_: None)
    assert trained.final_fingerprint(run_dir) == expected
