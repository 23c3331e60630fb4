"""The ImageNet config on real images: all stages in small, and a run that is cut off in the middle of an epoch."""

import os
import pathlib

import jax
import numpy as np
import one_convolution
import pytest

from arada.data.sources.records import StreamedSplit
from arada.experiment import Experiment
from arada.runs import trained
from arada.runs.workdir import Workdir
from arada.runtime import files
from configs import imagenet

DATA_DIR = os.environ.get("TFDS_DATA_DIR", "")
pytestmark = [
    pytest.mark.skipif(
        not (DATA_DIR and (pathlib.Path(DATA_DIR) / "imagenet2012").exists()),
        reason="TFDS_DATA_DIR names no folder with a prepared imagenet2012, of which 48 and 80 images would do",
    ),
    pytest.mark.usefixtures("one_convolution"),
]
ALL = {"train": 48, "validation": 40, "test": 40}


def small():
    """The testing preset with a tiny network on tiny crops, six steps an epoch."""
    config = imagenet.get_config("ar_adals,testing")
    config.update_from_flattened_dict(
        {
            **{f"data.num_{name}": count for name, count in ALL.items()},
            "data.image_shape": (16, 16, 3),
            "run.num_devices": 2,
            "run.checkpoint_every_steps": 4,
        }
    )
    fields = {name: config.model[name] for name in ("batch_norm", "batch_norm_momentum", "dtype")}
    config.model = {"name": one_convolution.NAME, **fields}
    return config


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A workdir whose stages ran through at once."""
    path = tmp_path_factory.mktemp("untouched")
    Experiment(small(), path).run()
    return Workdir(path)


def rows(workdir, name):
    found = files.read_json_lines(workdir.run(name, 0) / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in found]


def test_every_image_is_counted_once(untouched):
    assert untouched.runs() == [("ar_adals", 0), ("vanilla", 0)]
    of_published = {"validation": [], "test": []}
    for name, count in ALL.items():
        ranking = files.read_npz(untouched.ranking("vanilla/seed_0") / f"{name}.npz")
        assert len(np.unique(ranking["example_id"])) == count
        np.testing.assert_array_equal(np.bincount(ranking["subset"]), [count // 4] * 4)
        assert np.all(ranking["distance"] > 0)
        if name in of_published:
            stored = files.read_npz(untouched.predictions("ar_adals", 0) / f"{name}.npz")
            np.testing.assert_array_equal(stored["example_id"], ranking["example_id"])
            np.testing.assert_array_equal(stored["label"], ranking["label"])
            assert stored["logits"].shape == (1, count, 1000)
            of_published[name] = stored["example_id"]
    np.testing.assert_array_equal(np.sort(np.concatenate(list(of_published.values()))), np.arange(80))


def test_no_shifts_are_no_obstacle(untouched):
    run = files.read_json(untouched.evaluation)["methods"]["ar_adals"]["runs"]["0"]
    assert run["shift"] == {}
    assert run["subsets"]["count"] == [10] * 4
    assert "<svg" in (untouched.path / "report" / "index.html").read_text()


def test_attacks_are_in_float32_and_training_is_not():
    config = small()
    assert trained.build_model(config).dtype == "bfloat16"
    assert trained.build_ranked(config).dtype == "float32"


def resumed(config, path, stage, at, monkeypatch):
    """Runs a stage that dies before the batch `at`, an (epoch, number), and runs it again.

    Returns how many batches were skipped as each epoch began.
    """
    whole, skipped = StreamedSplit.epoch, []

    def interrupted(split, batch_size, *, epoch, skip, **kw):
        skipped.append(skip)
        for number, batch in enumerate(whole(split, batch_size, epoch=epoch, skip=skip, **kw), start=skip):
            if (epoch, number) == at:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(StreamedSplit, "epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Experiment(config, path).run(stage)
    monkeypatch.setattr(StreamedSplit, "epoch", lambda *args, **kw: skipped.append(kw["skip"]) or whole(*args, **kw))
    Experiment(config, path).run(stage)
    monkeypatch.setattr(StreamedSplit, "epoch", whole)
    return skipped


def test_a_run_cut_off_in_an_epoch_ends_with_the_same_numbers(untouched, tmp_path, monkeypatch):
    # Checkpoints after steps 4 and 8 of 6 an epoch: the second of the second epoch.
    assert resumed(small(), tmp_path, "vanilla", (1, 5), monkeypatch) == [0, 0, 2]
    assert [row["step"] for row in rows(untouched, "vanilla")] == list(range(1, 13))
    assert rows(Workdir(tmp_path), "vanilla") == rows(untouched, "vanilla")


@pytest.mark.slow
def test_the_whole_network_is_trained_ranked_evaluated_and_resumed(tmp_path, monkeypatch):
    """ResNet-101 on images of 224 x 224: two epochs of two steps, cut off before the last."""
    config = imagenet.get_config("vanilla,testing")
    config.update_from_flattened_dict({"data.num_train": 16, "run.num_devices": 1})
    assert (config.model.depth, config.data.image_shape) == (101, (224, 224, 3))
    assert resumed(config, tmp_path / "resumed", "train", (1, 1), monkeypatch) == [0, 0, 1]
    for stage in ("train", "rank", "evaluate"):
        Experiment(config, tmp_path / "untouched").run(stage)
    untouched, again = Workdir(tmp_path / "untouched"), Workdir(tmp_path / "resumed")
    assert [row["step"] for row in rows(untouched, "vanilla")] == [1, 2, 3, 4]
    assert rows(again, "vanilla") == rows(untouched, "vanilla")
    weights = (trained.final_variables(of.run("vanilla", 0)) for of in (untouched, again))
    jax.tree.map(np.testing.assert_array_equal, *weights)
    for name, count in {"train": 16, "validation": 40, "test": 20}.items():
        ranking = files.read_npz(untouched.ranking("vanilla/seed_0") / f"{name}.npz")
        np.testing.assert_array_equal(np.bincount(ranking["subset"]), [count // 4] * 4)
    stored = files.read_npz(untouched.predictions("vanilla", 0) / "test.npz")
    accuracy = np.mean(stored["logits"][0].argmax(axis=-1) == stored["label"])
    evaluation = files.read_json(untouched.evaluation)
    assert evaluation["methods"]["vanilla"]["runs"]["0"]["test"]["accuracy"] == pytest.approx(accuracy)
