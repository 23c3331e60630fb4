"""The command line as a user meets it: one line for a mistake, no traceback."""

import os
import subprocess
import sys

import commands
import pytest

pytestmark = pytest.mark.usefixtures("quickly_compiled")

MISTAKES = {
    ("configs/digits.py:ar_adal",): "unknown preset 'ar_adal'; there are vanilla",
    ("configs/digit.py",): "configs/digit.py",
    ("configs/digits.py", "--config.training.epoch=3"): "epoch",
    ("configs/digits.py", "--config.training.epochs=1e1"): "epochs=1e1: it must be a whole number",
    ("configs/digits.py:adals", "--config.soft_labels.alpha=((0,0.0),)"): "soft_labels.alpha holds 0.0",
    ("configs/digits.py", "stage=train"): "'stage=train' is not a flag; flags begin with --",
    ("configs/cifar10.py", "--config.run.data_dir=/nowhere"): "python -m arada.prepare",
}


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory):
    """What each of the mistakes ended with."""
    workdir = tmp_path_factory.mktemp("mistakes")
    done = commands.run(
        *(("arada.main", f"--config={config}", *more, f"--workdir={workdir}") for config, *more in MISTAKES)
    )
    return dict(zip(MISTAKES, done, strict=True))


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.items(), ids=[" ".join(of) for of in MISTAKES])
def test_a_mistake_ends_in_one_line(mistaken, arguments, message):
    result = mistaken[arguments]
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_flags_override_fields_of_every_kind(tmp_path):
    flags = (
        "--config=configs/digits.py:ar_adals,testing",
        f"--workdir={tmp_path}",
        "--stage=vanilla",
        "--config.training.epochs=1",
        "--config.seeds=(5,)",
        "--config.soft_labels.alpha=((0,0.01),(2,0.1))",
        "--config.evaluation.shifts=('blur',)",
        "--config.optimizer.learning_rate=0.01",
        "--config.optimizer.decay=((1,0.5),)",
        "--config.run.mapping=shard_map",
    )
    command = [sys.executable, "-m", "arada.main", *flags]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"XLA_FLAGS": ""})
    assert result.returncode == 0, result.stderr
    assert "mapped by shard_map" in result.stderr
    assert result.stdout == "Done: vanilla\n"
    assert (tmp_path / "runs/vanilla/seed_5/checkpoints/4").exists()
