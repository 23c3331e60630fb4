"""Ranking on the fly: images change their subset while a run trains, subsets keep what they have learnt."""

import jax
import numpy as np
import pytest

from arada import models
from arada.experiment import Experiment
from arada.runs import ranking as rankings
from arada.runs import trained
from arada.runs import workdir as workdirs
from arada.runs.identity import refreshes_after
from arada.runs.workdir import Workdir
from arada.runtime import files
from configs import digits

pytestmark = pytest.mark.usefixtures("one_convolution")

R, ALPHA = 10, 0.3
OVERRIDES = {
    "run.num_devices": 2,
    "seeds": (0,),
    "ranking.attack": "fmn",
    "ranking.fmn.steps": 2,
    "soft_labels.alpha": ((0, ALPHA),),
}


def on_the_fly(**overrides):
    config = digits.get_config("ar_adals_on_the_fly,testing")
    config.update_from_flattened_dict(OVERRIDES | overrides)
    return config


def train(config, path):
    """The workdir with a run trained to its end, after whatever it needs."""
    experiment = Experiment(config, path)
    for stage in ("vanilla", "rank", "train"):
        experiment.run(stage)
    return Workdir(path)


def of_epochs(workdir, config):
    """The rows that were logged after each epoch."""
    rows = files.read_json_lines(workdir.run(config.name, 0) / "metrics.jsonl")
    return [row for row in rows if "soft_label/subset_00" in row]


def by_subset(row, quantity):
    return np.array([row[f"{quantity}/subset_{r:02}"] for r in range(R)])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("refresh")


@pytest.fixture(scope="module")
def refreshed(path):
    """Ranked again after epochs 1 and 2 of 3; beside it what each call of the ranking job compiled."""
    compiled, calls = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    real = rankings.rank

    def counted(name, *args, directory, **kwargs):
        before = len(compiled)
        found = real(name, *args, directory=directory, **kwargs)
        if directory.name.startswith("epoch_"):
            calls.append((f"{directory.name}/{name}", len(compiled) - before))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankings, "rank", counted)
        workdir = train(on_the_fly(), path)
    assert compiled, "the listener has heard of no compilation at all"
    return workdir, dict(calls)


def test_a_refresh_ranks_both_splits_by_the_weights_of_its_epoch(refreshed):
    workdir, _ = refreshed
    distances = {}
    for epoch in (1, 2):
        directory = workdir.refreshed_ranking("ar_adals_on_the_fly", 0, epoch)
        for split in rankings.TRAINED_ON:
            ranking = files.read_npz(directory / f"{split}.npz")
            assert len(ranking["distance"]) == 128
            np.testing.assert_array_equal(np.bincount(ranking["subset"]), [13, 13, 13, 13, 12] * 2)
            distances[epoch, split] = ranking["distance"]
    assert not workdir.refreshed_ranking("ar_adals_on_the_fly", 0, 3).exists()
    for split in rankings.TRAINED_ON:
        assert not np.array_equal(distances[1, split], distances[2, split])


def test_nothing_compiles_at_a_later_refresh(refreshed):
    _, compiled = refreshed
    assert list(compiled) == ["epoch_1/train", "epoch_1/validation", "epoch_2/train", "epoch_2/validation"]
    assert compiled["epoch_1/train"] > 0
    assert compiled["epoch_1/validation"] == compiled["epoch_2/train"] == compiled["epoch_2/validation"] == 0


def test_a_subset_keeps_its_soft_label_when_images_move(refreshed):
    rows = of_epochs(refreshed[0], on_the_fly())
    expected = np.ones(R)
    for row in rows:
        np.testing.assert_allclose(by_subset(row, "soft_label"), expected, atol=1e-6)
        gap = by_subset(row, "validation/confidence") - by_subset(row, "validation/accuracy")
        expected = np.clip(expected - ALPHA * gap, 0.1, 1)
    assert np.ptp(expected) > 0.01


def test_validation_is_by_the_ranks_of_the_refresh_before(refreshed, path):
    """The last epoch's means again, from the final weights and the ranking after epoch 2."""
    workdir, _ = refreshed
    config = on_the_fly()
    experiment = Experiment(config, path)
    split = experiment.splits["validation"]
    variables = trained.final_variables(workdir.run(config.name, 0))
    logits = models.logits_fn(trained.build_model(config))(variables, split.image)
    confidence = np.asarray(jax.nn.softmax(logits)).max(axis=-1)
    subset = files.read_npz(workdir.refreshed_ranking(config.name, 0, 2) / "validation.npz")["subset"]
    expected = [confidence[subset == r].mean() for r in range(R)]
    last = of_epochs(workdir, config)[-1]
    np.testing.assert_allclose(by_subset(last, "validation/confidence"), expected, atol=1e-5)


def test_how_many_images_moved_is_logged(refreshed):
    workdir, _ = refreshed
    rows = of_epochs(workdir, on_the_fly())
    assert ["ranking/changed_train" in row for row in rows] == [True, True, False]
    for split in rankings.TRAINED_ON:
        before, after = (
            files.read_npz(workdir.refreshed_ranking("ar_adals_on_the_fly", 0, epoch) / f"{split}.npz")["subset"]
            for epoch in (1, 2)
        )
        assert rows[1][f"ranking/changed_{split}"] == pytest.approx(np.mean(before != after))
        assert 0 < np.mean(before != after) < 1


# A refresh writes two parts and one file for each of two splits: the third and the last file of the first one, and
# the second part of the second.
@pytest.mark.parametrize(("dies_at", "attacked_again"), [(3, 2), (6, 0), (8, 3)])
def test_a_run_killed_in_a_refresh_ends_in_the_same_numbers(refreshed, path, monkeypatch, dies_at, attacked_again):
    workdir, _ = refreshed
    config = on_the_fly(**{"run.checkpoint_every_steps": 1})
    config.name = f"killed_{dies_at}"
    real, written, attacked = files.write_npz, [], []

    def dying(file, arrays):
        written.append(file)
        if len(written) == dies_at:
            raise KeyboardInterrupt
        real(file, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_npz", dying)
        with pytest.raises(KeyboardInterrupt):
            Experiment(config, path).run("train")
    killed_in = f"epoch_{1 + dies_at // 7}"
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_npz", lambda file, arrays: (attacked.append(str(file)), real(file, arrays)))
        Experiment(config, path).run("train")
    assert sum("/parts/" in file and f"/{killed_in}/" in file for file in attacked) == attacked_again
    again, untouched = (
        files.read_json_lines(workdir.run(name, 0) / "metrics.jsonl") for name in (config.name, on_the_fly().name)
    )

    def without_speed(rows):
        return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]

    assert without_speed(again) == without_speed(untouched)


def test_ranks_that_other_weights_have_left_are_not_used(refreshed, path):
    """A run's folder is deleted and it is trained again: its first refresh finds a ranking there."""
    workdir, _ = refreshed
    config = on_the_fly()
    config.name = "again"
    train(config, path)
    directory = workdir.refreshed_ranking("again", 0, 1)
    first = files.read_npz(directory / "train.npz")["distance"]
    workdir.run("again", 0).rmtree()
    config.optimizer.learning_rate = 0.01
    Experiment(config, path).run("train")
    assert not np.array_equal(files.read_npz(directory / "train.npz")["distance"], first)


def test_before_the_first_refresh_all_images_may_share_one_soft_label(path):
    config = on_the_fly(**{"ranking.before_refresh": "one_subset", "ranking.refresh_epochs": (2,)})
    config.name = "one_subset"
    workdir = train(config, path)
    rows = of_epochs(workdir, config)
    for row in rows[:2]:
        for quantity in ("soft_label", "validation/confidence", "validation/accuracy"):
            assert np.ptp(by_subset(row, quantity)) == 0
    # As AdaLS, on all images.
    assert "ranking/changed_train" not in rows[1]  # they had no subset to change
    gap = rows[0]["validation/confidence"] - rows[0]["validation/accuracy"]
    expected = np.clip(1 - ALPHA * gap, 0.1, 1)
    np.testing.assert_allclose(by_subset(rows[1], "soft_label"), expected, atol=1e-6)
    assert np.ptp(by_subset(rows[2], "soft_label")) == 0
    assert np.ptp(by_subset(rows[2], "validation/accuracy")) > 0
    assert "ranking" not in workdirs.stored(workdir.run("one_subset", 0))["identity"]


def test_cadence():
    def due(**overrides):
        config = on_the_fly(**{"training.epochs": 10, "ranking.refresh_epochs": (), **overrides})
        return [epoch + 1 for epoch in range(10) if refreshes_after(config, epoch)]

    assert due() == []
    assert due(**{"ranking.refresh_epochs": (2, 7)}) == [2, 7]
    # Not after the last epoch: nothing would train on those ranks.
    assert due(**{"ranking.refresh_every": 5}) == [5]
    assert due(**{"ranking.refresh_every": 4, "ranking.refresh_epochs": (1,)}) == [1, 4, 8]
    assert due(**{"ranking.refresh_every": 4, "soft_labels.num_subsets": 1}) == []


@pytest.mark.parametrize("by", ["confidence", "random"])
def test_the_controls_train_on_ranks_without_an_attack(path, by):
    config = digits.get_config(f"ar_adals_by_{by},testing")
    config.update_from_flattened_dict(OVERRIDES)
    workdir = train(config, path)
    directory = workdir.ranking("vanilla/seed_0", by)
    ranking = files.read_npz(directory / "train.npz")
    assert "distance" not in ranking
    np.testing.assert_array_equal(np.bincount(ranking["subset"]), [13, 13, 13, 13, 12] * 2)
    assert workdirs.stored(workdir.run(config.name, 0))["identity"]["ranking"] == {
        "source": "vanilla/seed_{seed}",
        "by": by,
    }
    if by == "confidence":
        experiment = Experiment(config, path)
        variables = trained.final_variables(workdir.run("vanilla", 0))
        logits = models.logits_fn(trained.build_model(config))(variables, experiment.splits["train"].image)
        confidence = np.asarray(jax.nn.softmax(logits)).max(axis=-1)
        highest = [confidence[ranking["subset"] == r].max() for r in range(R)]
        lowest = [confidence[ranking["subset"] == r].min() for r in range(R)]
        assert np.all(np.array(highest[:-1]) <= np.array(lowest[1:]) + 1e-6)
