"""Everything but data of TensorFlow Datasets works where TensorFlow, TFDS and TensorBoard are not installed."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import one_convolution
import pytest

pytestmark = pytest.mark.usefixtures("quickly_compiled")

PROGRAM = """
import sys

# As if not installed: import and importlib.util.find_spec say so.
for name in ("tensorflow", "tensorflow_datasets", "tensorboard", "array_record"):
    sys.modules[name] = None

import dataclasses
import runpy

import one_convolution
from arada import models
from arada.data.sources import archives

models.BY_NAME["resnet_v2"] = one_convolution.OneConvolution  # for the time that the ResNet takes
archives.LAYOUTS["cifar10"] = dataclasses.replace(archives.LAYOUTS["cifar10"], train_images=12, test_images=20)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
SMALL = {
    "seeds": "(0,)",
    "run.num_devices": 1,
    "data.num_train": 40,
    "data.num_validation": 20,
    "training.epochs": 1,
    "training.batch_size": 20,
    "soft_labels.num_subsets": 2,
    "ranking.num_subsets": 2,
    "ranking.attack": "fmn",
    "ranking.fmn.steps": 1,
    "evaluation.shift_source": "simple",
    "evaluation.shifts": "('noise',)",
    "evaluation.severities": "(5,)",
    "run.evaluation_batch_size": 20,
    "run.ranking_batch_size": 20,
}
OWN = SMALL | {
    "model.depth": 11,
    "model.width": 4,
    "data.num_classes": 3,
    "data.num_test": 20,
    "data.image_shape": "(8, 8, 3)",
    "evaluation.out_of_distribution": "('cifar100', 'svhn_cropped')",
}
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (80, 8, 8, 3), np.uint8), np.arange(80) % 3


def without(module, *arguments, **fields):
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    command = [sys.executable, "-c", PROGRAM, module, *arguments, *flags]
    environment = os.environ | {"TFDS_DATA_DIR": "", "PYTHONPATH": str(pathlib.Path(one_convolution.CONFIG).parent)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def all_stages(config, workdir, fields):
    done = without("arada.main", f"--config=configs/{config}", f"--workdir={workdir}", **fields)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Done: all\n")
    run = workdir / "runs" / "ar_adals" / "seed_0"
    assert (run / "metrics.jsonl").exists()
    assert not list(run.glob("events*"))
    assert (workdir / "report" / "index.html").exists()
    return done.stderr


def test_digits(tmp_path):
    log = all_stages("digits.py:ar_adals,testing", tmp_path, SMALL)
    assert log.count("pip install tensorboard") == 1


def test_npz_and_what_tfds_has_is_left_out_in_one_line(tmp_path):
    np.savez(tmp_path / "own.npz", image=IMAGES, label=LABELS)
    log = all_stages("own_images.py:ar_adals", tmp_path / "work", own("npz", tmp_path / "own.npz"))
    (line,) = {line.partition(" ")[2] for line in log.splitlines() if "leaves out" in line}
    assert line.startswith(
        "evaluation leaves out missing data: cifar100, svhn_cropped: tensorflow and tensorflow_datasets are not "
        "installed"
    )
    assert "pip install 'arada[tfds]'" in line


def own(source, path):
    return OWN | {"data.source": source, "run.data_dir": path}


def test_a_folder(tmp_path):
    from PIL import Image

    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:02}.png")
    all_stages("own_images.py:ar_adals", tmp_path / "work", own("folder", tmp_path / "images"))


def test_the_archive_of_cifar(tmp_path):
    files = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in files:
        count = 20 if "test" in name else 12
        rows = np.concatenate([np.arange(count)[:, None] % 10, RNG.integers(0, 256, (count, 3072))], axis=1)
        (folder / name).write_bytes(rows.astype(np.uint8).tobytes())
    fields = OWN | {"data.source": "cifar_archive", "run.data_dir": tmp_path, "training.normalization": "cifar"}
    fields |= {"data.num_classes": 10, "data.image_shape": "(32, 32, 3)"}
    all_stages("cifar10.py:ar_adals", tmp_path / "work", fields)


@pytest.mark.parametrize("config", ["cifar10", "imagenet"])
def test_data_of_tfds_end_in_one_line_that_says_how(tmp_path, config):
    done = without("arada.main", f"--config=configs/{config}.py", f"--workdir={tmp_path}")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "are not installed" in line
    assert "--export=FILE.npz" in line
    prepared = without("arada.prepare", f"--config=configs/{config}.py")
    assert prepared.returncode == 1
    assert f"{'imagenet2012' if config == 'imagenet' else config:<24} MISSING" in prepared.stdout
