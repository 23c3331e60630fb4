"""Workdirs and data in a store that is no folder of this machine: `gs://`, here kept in memory by TensorFlow.

Everything goes through etils.epath and `tf.io.gfile` as it would for a bucket, but for orbax's checkpoints: tensorstore
cannot be pointed at another store, so they lie in a folder.
"""

import io
import os

import numpy as np
import pytest
from etils.epath import backend
from PIL import Image

from arada import data
from arada.data.corruptions import folder
from arada.data.shifted import published
from arada.errors import UserError
from arada.experiment import Experiment
from arada.runs import trained, trainer
from arada.runs.workdir import Workdir
from arada.runtime import files
from arada.training.checkpoints import Checkpoints
from configs import digits, own_images

pytestmark = pytest.mark.usefixtures("one_convolution")

BUCKET = "gs://bucket"


def in_memory(path):
    return os.fspath(path).replace("gs://", "ram://", 1)


class Store:
    """`tf.io.gfile` with gs:// in memory, without what a store of objects cannot do."""

    def __init__(self, gfile):
        self._gfile = gfile

    def GFile(self, path, mode):
        assert mode in ("r", "rb", "w", "wb"), "objects are written whole"
        return self._gfile.GFile(in_memory(path), mode)

    def rename(self, path, to, overwrite=False):
        assert not self._gfile.isdir(in_memory(path)), "there are no folders that could be renamed"
        self._gfile.rename(in_memory(path), in_memory(to), overwrite=overwrite)

    def glob(self, pattern):
        return [path.replace("ram://", "gs://", 1) for path in self._gfile.glob(in_memory(pattern))]

    def __getattr__(self, name):
        return lambda path: getattr(self._gfile, name)(in_memory(path))


@pytest.fixture
def store(monkeypatch):
    """What `gs://` is in this test, empty."""
    gfile = Store(backend.tf_backend.gfile)
    monkeypatch.setattr(type(backend.tf_backend), "gfile", gfile)
    gfile.makedirs(BUCKET)
    yield gfile
    gfile.rmtree(BUCKET)


def local_checkpoints(root):
    class LocalCheckpoints(Checkpoints):
        def __init__(self, directory, **options):
            directory.mkdir(parents=True, exist_ok=True)
            super().__init__(root / str(directory).removeprefix("gs://"), **options)

    return LocalCheckpoints


def test_an_experiment_from_end_to_end(store, tmp_path, monkeypatch):
    for module in (trainer, trained):
        monkeypatch.setattr(module, "Checkpoints", local_checkpoints(tmp_path))
    config = digits.get_config("ar_adals,testing")
    config.update_from_flattened_dict({"run.num_devices": 1, "seeds": (0,), "evaluation.out_of_distribution": ()})
    config.evaluation.update(shifts=("noise",), severities=(5,))
    config.ranking.update(attack="fmn", fmn={"steps": 1})

    Experiment(config, f"{BUCKET}/digits").run()
    workdir = Workdir(f"{BUCKET}/digits")
    assert str(workdir.path) == f"{BUCKET}/digits"
    assert workdir.runs() == [("ar_adals", 0), ("vanilla", 0)]
    ranking = workdir.ranking("vanilla/seed_0")
    assert len(np.unique(files.read_npz(ranking / "test.npz")["example_id"])) == 1797 - 256
    assert list((ranking / "parts").glob("*")) == []
    rows = files.read_json_lines(workdir.run("ar_adals", 0) / "metrics.jsonl")
    assert [row["epoch"] for row in rows if "soft_label/subset_00" in row] == [1, 2, 3]
    assert len(list(workdir.run("ar_adals", 0).glob("events.out.tfevents.*"))) == 1
    (accuracy,) = [
        run["test"]["accuracy"] for run in files.read_json(workdir.evaluation)["methods"]["ar_adals"]["runs"].values()
    ]
    predicted = files.read_npz(workdir.predictions("ar_adals", 0) / "test.npz")
    assert np.mean(predicted["logits"][0].argmax(axis=-1) == predicted["label"]) == pytest.approx(accuracy)
    assert "</html>" in (workdir.path / "report" / "index.html").read_text()

    # The same command continues with what is there: here a ranking that lost its end.
    whole = files.read_npz(ranking / "test.npz")
    (ranking / "test.npz").unlink()
    Experiment(config, f"{BUCKET}/digits").run("rank")
    np.testing.assert_array_equal(files.read_npz(ranking / "test.npz")["distance"], whole["distance"])
    config.optimizer.learning_rate = 0.5
    with pytest.raises(UserError, match=r"gs://bucket/digits/runs/\S+ was made with another config: optimizer"):
        Experiment(config, f"{BUCKET}/digits").run("train")


def test_a_store_that_refuses_is_reported_in_one_line(store, monkeypatch):
    errors = backend.tf_backend.tf.errors

    def refuse(path):
        raise errors.PermissionDeniedError(None, None, "403: no access to the bucket\nmore")

    monkeypatch.setattr(store, "makedirs", refuse, raising=False)
    with pytest.raises(UserError, match=r"^--workdir=gs://bucket/a cannot be written: 403: no access to the bucket; "):
        Workdir(f"{BUCKET}/a").create()


def test_images_of_ones_own(store):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 8, 8, 3), np.uint8), np.arange(12) % 3
    config = own_images.get_config().data
    config.update({"num_classes": 3, "image_shape": (8, 8, 3), "num_train": 6, "num_validation": 3, "num_test": 3})
    files.write_npz(files.absolute(f"{BUCKET}/own.npz"), {"image": images, "label": labels})
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        content = io.BytesIO()
        Image.fromarray(image).save(content, "png")
        files.write_bytes(files.absolute(f"{BUCKET}/own/{label}/{number:02}.png"), content.getvalue())

    def read(source, path):
        config.source = source
        splits = data.load_splits(data.build(config, path), config)
        return np.concatenate([split.image for split in splits.values()])[np.argsort([*_ids(splits)])]

    np.testing.assert_array_equal(read("npz", f"{BUCKET}/own.npz"), images)
    by_class = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(read("folder", f"{BUCKET}/own"), images[by_class])


def _ids(splits):
    return (example_id for split in splits.values() for example_id in split.example_id)


def test_generated_corruptions(store, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    read = []
    for path in (f"{BUCKET}/corrupted", tmp_path):
        folder.write(path, images, np.arange(3), types=("contrast",))
        npy = published.NpyFolder(files.absolute(path), (32, 32, 3), "run.generated_dir")
        read.append(npy.images("contrast", 5, np.arange(3)))
    np.testing.assert_array_equal(*read)
