import logging

import jax
import numpy as np
import pytest

from arada.data.splits import Split
from arada.evaluation import predictions
from arada.runtime import files
from arada.training.replication import Replicas
from configs import digits

NAMES = ["test", "validation", "noise_1", "noise_5", "blur_1", "blur_5", "ood_a_b", "ood_photographs"]


def split_of(count, value):
    ids = np.arange(50, 50 + 2 * count, 2, dtype=np.int32)
    return Split(np.full((count, 2, 2, 1), value, np.float32), ids // 2 % 2, ids)


class Dataset:
    """Makes splits of five images, each set with a brightness of its own, and remembers what it made.

    It is the source of its shifts as well.
    """

    def __init__(self, no_shift=(), no_ood=()):
        self.made, self.no_shift, self.no_ood = [], no_shift, no_ood

    def shifted(self, name, severity):
        self.made.append(f"{name}_{severity}")
        return split_of(5, {"noise": 10, "blur": 20}[name] + severity)

    def absent(self, names, severities):
        return {name: "no such file" for name in names if name in self.no_shift}

    def why_absent(self, name, image_shape):
        return "not prepared" if name in self.no_ood else ""

    def out_of_distribution(self, name):
        self.made.append(name)
        return split_of(3, {"a/b": 30, "photographs": 31}[name])


@pytest.fixture
def config():
    config = digits.get_config()
    config.evaluation.update(shifts=("noise", "blur"), severities=(1, 5), out_of_distribution=("a/b", "photographs"))
    config.run.evaluation_batch_size = 4
    return config


@pytest.fixture(scope="module")
def model():
    """(replicas, mapped): logits are the image's brightness times the one weight, and 0."""
    replicas = Replicas(jax.devices()[:2])

    def step(variables, batch):
        brightness = batch["image"].mean(axis=(1, 2, 3))
        return {"logits": jax.numpy.stack([variables * brightness, 0 * brightness], axis=-1)[:, None]}

    return replicas, replicas.map(step, in_axes=(None, 0), out_axes=0)


@pytest.fixture
def predict(model, config):
    """predict(runs) -> (what the data set had to make, the weight of every forward pass)."""
    replicas, mapped = model
    splits = {"train": split_of(1, 0), "validation": split_of(6, 1), "test": split_of(5, 2)}

    def run(runs, left_out=()):
        dataset, passes = Dataset(), []

        def counted(variables, batch):
            passes.append(float(variables))
            return mapped(variables, batch)

        sources = predictions.Sources(dataset, dataset, splits)
        predictions.predict("job", counted, runs, config, sources, replicas, left_out)
        return dataset.made, passes

    return run


def test_names_of_the_data_sets(config):
    assert predictions.dataset_names(config.evaluation) == NAMES
    config.evaluation.update(shifts=(), out_of_distribution=())
    assert predictions.dataset_names(config.evaluation) == ["test", "validation"]


def test_each_set_is_made_once_for_all_runs(predict, tmp_path):
    runs = {tmp_path / "a": np.float32(1), tmp_path / "b": np.float32(-2)}
    made, passes = predict(runs)
    assert made == ["noise_1", "noise_5", "blur_1", "blur_5", "a/b", "photographs"]
    # Four images on each of two devices: one pass for each of eight sets.
    assert sorted(passes) == [-2.0] * 8 + [1.0] * 8
    values = dict(zip(NAMES, (2, 1, 11, 15, 21, 25, 30, 31), strict=True))
    for directory, weight in runs.items():
        assert sorted(path.name for path in directory.iterdir()) == sorted(f"{name}.npz" for name in NAMES)
        for name, value in values.items():
            stored = files.read_npz(directory / f"{name}.npz")
            expected = split_of({"validation": 6, "ood_a_b": 3, "ood_photographs": 3}.get(name, 5), value)
            assert stored["logits"].dtype == np.float32
            np.testing.assert_array_equal(stored["logits"], [[[weight * value, 0]] * len(expected)])
            np.testing.assert_array_equal(stored["example_id"], expected.example_id)
            np.testing.assert_array_equal(stored["label"], expected.label)


def test_only_what_is_missing_is_predicted(predict, tmp_path, config):
    runs = {tmp_path / "a": np.float32(1), tmp_path / "b": np.float32(-2)}
    predict(runs)
    assert predict(runs) == ([], [])
    (tmp_path / "a" / "blur_5.npz").unlink()
    (tmp_path / "b" / "test.npz").unlink()
    assert predictions.missing(tmp_path / "a", config.evaluation) == {"blur_5"}
    assert predictions.missing(tmp_path / "b", config.evaluation) == {"test"}
    assert predictions.missing(tmp_path / "c", config.evaluation) == set(NAMES)
    before = files.read_npz(tmp_path / "a" / "test.npz")
    (tmp_path / "b" / "noise_1.npz").write_bytes(b"as it was")
    made, passes = predict(runs)
    assert made == ["blur_5"]
    assert sorted(passes) == [-2.0, 1.0]
    assert not predictions.missing(tmp_path / "a", config.evaluation)
    assert not predictions.missing(tmp_path / "b", config.evaluation)
    np.testing.assert_array_equal(files.read_npz(tmp_path / "a" / "test.npz")["logits"], before["logits"])
    assert (tmp_path / "b" / "noise_1.npz").read_bytes() == b"as it was"


def test_of_shifted_sets_a_summary_can_be_stored(predict, tmp_path, config):
    folders = {way: tmp_path / way for way in ("logits", "summaries")}
    for way, folder in folders.items():
        config.evaluation.store_shifted = way
        predict({folder: np.float32(0.1)})
    for name in NAMES:
        compacted = name in ("noise_1", "noise_5", "blur_1", "blur_5")
        assert ("logits" in files.read_npz(folders["summaries"] / f"{name}.npz")) != compacted
    fitted = predictions.fitted(folders["logits"])
    for name in ("noise_5", "test"):
        read = (predictions.read_outcomes(folder, name, fitted, 15) for folder in folders.values())
        (expected, ids), (found, same_ids) = read
        np.testing.assert_array_equal(ids, same_ids)
        assert list(found) == list(expected) == ["plain", "temperature", "ets"]
        for variant in found:
            for of_found, of_expected in zip(found[variant], expected[variant], strict=True):
                np.testing.assert_allclose(of_found, of_expected, rtol=1e-5, atol=1e-7)
        probabilities = [predictions.read(folder, name)[0] for folder in folders.values()]
        np.testing.assert_allclose(*probabilities, rtol=1e-5)


def test_absent_data_are_named_in_one_line_and_left_out(predict, tmp_path, config, caplog):
    dataset = Dataset(no_shift=("blur",), no_ood=("a/b",))
    with caplog.at_level(logging.WARNING, logger="arada"):
        absent = predictions.find_absent(config, predictions.Sources(dataset, dataset, {}))
    assert absent == predictions.Absent(shift={"blur": "no such file"}, ood={"a/b": "not prepared"})
    assert [record.getMessage() for record in caplog.records] == [
        "evaluation leaves out missing data: blur: no such file; a/b: not prepared"
    ]
    left_out = absent.stored_names(config.evaluation)
    assert left_out == {"blur_1", "blur_5", "ood_a_b"}
    made, _ = predict({tmp_path: np.float32(1)}, left_out)
    assert made == ["noise_1", "noise_5", "photographs"]
    assert predictions.missing(tmp_path, config.evaluation) == left_out


def test_nothing_is_said_when_nothing_is_absent(config, caplog):
    sources = predictions.Sources(Dataset(), Dataset(), {})
    assert predictions.find_absent(config, sources) == predictions.Absent()
    assert not caplog.records


def test_members_count_alike(tmp_path):
    of_members = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.4, 0.6]]])
    arrays = {"logits": np.log(of_members).astype(np.float32), "label": [1, 0], "example_id": [4, 7]}
    # A softmax does not see what is added to all logits.
    arrays["logits"][1] += 5
    files.write_npz(tmp_path / "test.npz", arrays)
    probabilities, labels, ids = predictions.read(tmp_path, "test")
    np.testing.assert_allclose(probabilities, [[0.7, 0.3], [0.3, 0.7]], rtol=1e-6)
    logits, of_logits = predictions.read_logits(tmp_path, "test")
    np.testing.assert_allclose(logits, np.log([[0.7, 0.3], [0.3, 0.7]]), rtol=1e-5)
    np.testing.assert_array_equal(of_logits, [1, 0])
    np.testing.assert_array_equal(labels, [1, 0])
    np.testing.assert_array_equal(ids, [4, 7])
