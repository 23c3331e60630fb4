"""`kill -9` at any moment, and the same command again: the same numbers as a run that was never killed."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import one_convolution
import pytest

from arada.runs.workdir import Workdir
from arada.runtime import files

pytestmark = pytest.mark.usefixtures("one_convolution")

# What a process says just before each kind of work, in the order of a run, so that kills fall into all of them.
MOMENTS = ("compiling the train step", "compiled in", "ranking validation", "soft labels after epoch 2", "predicting")


def start(workdir):
    command = [
        sys.executable,
        "-m",
        "arada.main",
        f"--config={one_convolution.CONFIG}:ar_adals,testing",
        f"--workdir={workdir}",
    ]
    overrides = ["--config.seeds=(0,)", "--config.run.checkpoint_every_steps=1", "--config.run.log_every_steps=1"]
    return subprocess.Popen(
        command + overrides,
        env=os.environ | {"XLA_FLAGS": ""},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def finish(workdir):
    process = start(workdir)
    _, log = process.communicate()
    assert process.returncode == 0, log
    return log


def kill_at(moment, delay, workdir):
    """Starts the command and kills it `delay` seconds after it said `moment`; False if it never did."""
    process = start(workdir)
    for line in process.stderr:
        if moment in line:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stderr.close()
            return True
    process.wait()
    process.stderr.close()
    return False


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A workdir whose command ran through at once."""
    path = tmp_path_factory.mktemp("untouched")
    finish(path)
    return Workdir(path)


def test_killed_runs_end_with_the_same_numbers(untouched, tmp_path):
    killed = sum(kill_at(moment, 0.05 * number, tmp_path) for number, moment in enumerate(MOMENTS))
    assert killed == len(MOMENTS)
    finish(tmp_path)
    resumed = Workdir(tmp_path)
    for name in ("vanilla", "ar_adals"):
        of_both = [files.read_json_lines(w.run(name, 0) / "metrics.jsonl") for w in (untouched, resumed)]
        for rows in of_both:
            assert [row["step"] for row in rows] == list(range(1, 13))
            for row in rows:
                row.pop("images_per_second", None)
        assert of_both[0] == of_both[1]
    for pattern in ("robustness/vanilla/seed_0/*.npz", "predictions/ar_adals/seed_0/*.npz"):
        names = sorted(path.relative_to(untouched.path) for path in untouched.path.glob(pattern))
        assert len(names) in (3, 7)
        for name in names:
            expected, found = (files.read_npz(w.path / name) for w in (untouched, resumed))
            for key, value in expected.items():
                np.testing.assert_array_equal(found[key], value, err_msg=f"{name}: {key}")
