"""The command, on this machine."""

import json
import os
import subprocess
import sys

import jax
import one_convolution
import pytest

from arada import doctor
from arada.errors import UserError
from arada.machines import installed
from configs import digits

pytestmark = pytest.mark.usefixtures("one_convolution")


def run(*flags, **environment):
    command = [sys.executable, "-m", "arada.doctor", *flags]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_a_config_is_measured_and_told_as_json(tmp_path):
    flags = f"--config={one_convolution.CONFIG}:ar_adals,testing", "--config.run.num_devices=1", "--price=3.6", "--json"
    done = run(*flags, "--config.ranking.attack=fmn", GLIBC_TUNABLES="")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {finding["subject"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["devices"]["values"]["platform"] == "cpu"
    assert found["keep_memory"]["remedy"] == "before training: source launch/environment.sh; keep_memory"
    assert found["data"]["values"] == {"train": 128, "validation": 128, "test": 1541}
    values = found["experiment"]["values"]
    stages = ("compiling", "training", "validation", "ranking", "predictions")
    assert values["seconds"] == pytest.approx(sum(values[f"{stage}_seconds"] for stage in stages))
    assert all(values[f"{stage}_seconds"] > 0 for stage in stages)
    assert values["dollars"] == pytest.approx(values["seconds"] / 1000)
    assert found["train step"]["values"]["measured_images"] == 32
    assert 0 < found["train step"]["values"]["share_of_matrix_product"] < 1


def test_missing_data_are_wrong_and_the_rest_is_reported(tmp_path):
    config = digits.get_config("vanilla,testing")
    config.run.num_devices = 1
    config.data = {"source": "npz", "num_classes": 10, "image_shape": (8, 8, 1), "num_train": 64, "num_validation": 100}
    config.data.update({"num_test": 32, "split_seed": 0})
    config.run.data_dir = str(tmp_path / "none.npz")
    config.evaluation.out_of_distribution = ()
    found = {finding.subject: finding for finding in doctor.examine(config)}
    assert found["data"].state == "wrong"
    assert "is not a file" in found["data"].text
    assert found["experiment"].values["seconds"] > 0


def test_a_config_that_cannot_run_is_refused():
    config = digits.get_config("vanilla,testing")
    config.model.dtype = "float8"
    with pytest.raises(UserError, match=r"model.dtype must be one of float32, bfloat16, not 'float8'"):
        list(doctor.examine(config))


def test_a_device_that_does_not_exist_ends_in_one_line():
    done = run(JAX_PLATFORMS="abacus")
    assert done.returncode == 1
    assert done.stderr.startswith("error: JAX cannot open its devices (Unable to initialize backend 'abacus'")
    assert done.stderr.count("\n") == 1


def test_a_precision_that_does_not_exist_ends_in_one_line():
    done = run(JAX_DEFAULT_MATMUL_PRECISION="banana")
    assert done.returncode == 1
    assert done.stderr.startswith("error: JAX refuses an environment variable: Invalid value")
    assert done.stderr.endswith("jax_default_matmul_precision; correct it or unset it\n")


def test_a_gpu_that_jax_does_not_see_is_wrong(monkeypatch, tmp_path):
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(installed, "ACCELERATORS", {str(tmp_path / "nvidiactl"): ("gpu", "jax[cuda13]")})
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    (finding,) = installed._unseen_accelerators()
    assert finding.state == "wrong"
    assert finding.remedy == "pip install -U 'jax[cuda13]'"


def test_a_package_that_is_not_there_is_named_with_its_loss(monkeypatch):
    monkeypatch.setitem(installed.OPTIONAL, "no_such_package", ("nothing", "pip install it"))
    lines = [finding.line() for finding in installed._optional()]
    assert any("not installed: nothing; pip install it" in line for line in lines)


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="there is no GPU")
def test_on_a_gpu():
    found = [finding for finding in doctor.examine(digits.get_config("ar_adals")) if finding.state == "wrong"]
    assert found == []


@pytest.mark.tpu
@pytest.mark.skipif(jax.default_backend() != "tpu", reason="there is no TPU")
def test_on_a_tpu():
    found = [finding for finding in doctor.examine(digits.get_config("ar_adals")) if finding.state == "wrong"]
    assert found == []
