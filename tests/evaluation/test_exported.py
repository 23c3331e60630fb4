"""Exported networks, run by programs that know nothing of this project."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import one_convolution
import pytest
import safetensors.numpy
import scipy.special

import arada
from arada.errors import UserError
from arada.evaluation import predictions
from arada.experiment import Experiment
from arada.runs.workdir import Workdir
from configs import digits

pytestmark = pytest.mark.usefixtures("one_convolution")

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import pathlib, sys
import jax, numpy
images = numpy.load("images.npy")
program = jax.export.deserialize(bytearray(pathlib.Path("network.bin").read_bytes()))
numpy.save("logits.npy", program.call(images))
assert not any(name.split(".")[0] in ("arada", "flax") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A vanilla run with its predictions, and an ensemble in lockstep without."""
    path = tmp_path_factory.mktemp("exported")
    for method, stage in (("vanilla", "train"), ("vanilla", "evaluate"), ("ar_adals_of_ensemble", "train")):
        config = digits.get_config(f"{method},testing")
        quick = {"seeds": (0,), "training.epochs": 1, "evaluation.shifts": (), "ranking.by": "random"}
        config.update_from_flattened_dict(quick)
        experiment = Experiment(config, path)
        if method != "vanilla":
            experiment.run("rank")
        experiment.run(stage)
    return Workdir(path)


def called(folder, images):
    """What a fresh process, in a folder of its own, makes of the file network.bin."""
    np.save(folder / "images.npy", images)
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, check=True)
    return np.load(folder / "logits.npy")


@pytest.mark.parametrize(
    ("name", "dtype"), [("vanilla", "uint8"), ("vanilla", "float32"), ("ar_adals_of_ensemble", "float32")]
)
def test_a_program_without_arada_runs_it(workdir, tmp_path, name, dtype):
    run = workdir.run(name, 0)
    arada.export(run, tmp_path / "network.bin", dtype=dtype)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 8, 8, 1), np.uint8) if dtype == "uint8" else rng.random((5, 8, 8, 1), np.float32)
    logits_fn, variables = arada.load(run)
    np.testing.assert_allclose(called(tmp_path, images), jax.jit(logits_fn)(variables, images), rtol=1e-5, atol=1e-5)


def test_the_temperature_is_that_of_the_validation_set(workdir, tmp_path):
    run = workdir.run("vanilla", 0)
    images = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    for temperature in (False, True):
        (tmp_path / str(temperature)).mkdir()
        arada.export(run, tmp_path / str(temperature) / "network.bin", dtype="float32", temperature=temperature)
    plain, scaled = (called(tmp_path / str(temperature), images) for temperature in (False, True))
    calibrator = predictions.fitted(workdir.predictions("vanilla", 0))["temperature"]
    assert calibrator.temperature != 1
    np.testing.assert_allclose(scipy.special.softmax(scaled, axis=-1), calibrator(plain), rtol=1e-4)


def test_safetensors_hold_the_weights(workdir, tmp_path):
    run = workdir.run("vanilla", 0)
    arrays = safetensors.numpy.load_file(arada.export(run, tmp_path / "weights.safetensors"))
    _, variables = arada.load(run)
    np.testing.assert_array_equal(arrays["params/Dense_0/kernel"], variables["params"]["Dense_0"]["kernel"])
    assert {name.split("/")[0] for name in arrays} == {"params", "batch_stats", "normalization"}
    assert len(arrays) == len(jax.tree.leaves(variables))


def test_what_cannot_be_exported(workdir, tmp_path):
    with pytest.raises(UserError, match="has no validation predictions to fit a temperature"):
        arada.export(workdir.run("ar_adals_of_ensemble", 0), tmp_path / "x", temperature=True)
    with pytest.raises(UserError, match="holds only weights"):
        arada.export(workdir.run("vanilla", 0), tmp_path / "x.safetensors", temperature=True)
    with pytest.raises(UserError, match="dtype is 'int8'"):
        arada.export(workdir.run("vanilla", 0), tmp_path / "x", dtype="int8")
    with pytest.raises(UserError, match="is not a run"):
        arada.export(tmp_path, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_the_page_s_snippets_run(workdir, tmp_path):
    """On a run of this test; its commands are presets that tests/runs/test_finetuning.py trains."""
    text = (ROOT / "docs" / "pretrained.md").read_text()
    paths = f"{ROOT}{os.pathsep}{pathlib.Path(one_convolution.CONFIG).parent}"
    run = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": paths}, "capture_output": True, "text": True}
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        snippet = snippet.replace("workdir/digits/runs/ar_adals/seed_0", str(workdir.run("vanilla", 0)))
        registered = "import one_convolution; one_convolution.get_config()\n"
        done = subprocess.run([sys.executable, "-c", registered + snippet], **run)
        assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in tmp_path.iterdir()} == {"network.bin", "network.safetensors"}
