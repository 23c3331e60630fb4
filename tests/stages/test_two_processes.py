"""Two processes of two devices run all stages as one process does with four devices or one, and take over from it."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import one_convolution
import pytest

from arada.experiment import Experiment
from arada.runs import trained
from arada.runs.workdir import Workdir
from arada.runtime import files
from configs import digits

pytestmark = pytest.mark.usefixtures("one_convolution")

# Batches of 32, of which a process holds 16, and 8 steps; soft labels move after the fourth. The 497 test images are
# three batches of evaluation, two for one process and a short one for the other, and five of the ranking. With SGD
# nothing blows up a rounding.
OVERRIDES = {
    "seeds": (0,),
    "training.epochs": 2,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.03,
    "ranking.attack": "fmn",
    "ranking.fmn.steps": 3,
    "evaluation.shifts": ("noise",),
    "evaluation.severities": (5,),
    "evaluation.out_of_distribution": (),
    "run.evaluation_batch_size": 200,
    "run.ranking_batch_size": 100,
    "run.checkpoint_every_steps": 4,
}
STEPS = 8


def by_two_processes(*workdirs, stage="all", **overrides):
    """Runs the command in two processes at once, in one workdir or in two; returns exit codes and what was said."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    config = f"{one_convolution.CONFIG}:ar_adals,testing"
    command = [sys.executable, "-m", "arada.main", f"--config={config}", f"--stage={stage}"]
    command += [f"--config.{field}={value}" for field, value in (OVERRIDES | overrides).items()]
    command += [f"--coordinator_address={address}", "--num_processes=2"]
    pair = [
        subprocess.Popen(
            [*command, f"--process_id={number}", f"--workdir={workdirs[number % len(workdirs)]}"],
            env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = [process.communicate(timeout=400) for process in pair]
    return [process.returncode for process in pair], said


def alone(workdir, devices, stage="all"):
    config = digits.get_config("ar_adals,testing")
    config.update_from_flattened_dict(OVERRIDES | {"run.num_devices": devices})
    Experiment(config, str(workdir)).run(stage)
    return Workdir(workdir)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The workdir of two processes that ran all stages, mapped by pmap."""
    path = tmp_path_factory.mktemp("hosts") / "together"
    codes, said = by_two_processes(path)
    assert codes == [0, 0], said
    # The first one speaks for both; gloo speaks in each.
    (table, log), (of_gloo, of_other) = said
    assert "Report: " in table
    assert "Report: " not in of_gloo
    assert "on 4 x cpu of 2 processes: batches of 32, 8 a device, mapped by pmap" in log
    assert "soft labels after epoch 2" in log
    assert "epoch" not in of_other
    return Workdir(path)


def rows(workdir, name):
    """metrics.jsonl without the speed."""
    lines = files.read_json_lines(workdir.run(name, 0) / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in lines]


def assert_same_run(actual, expected, name):
    assert [row["step"] for row in rows(expected, name)] == [2, 4, 6, 8]
    for of_actual, of_expected in zip(rows(actual, name), rows(expected, name), strict=True):
        assert of_actual == pytest.approx(of_expected, rel=0, abs=1e-5)
    variables, others = (trained.load(workdir.run(name, 0))[1] for workdir in (actual, expected))
    for leaf, other in zip(jax.tree.leaves(variables), jax.tree.leaves(others), strict=True):
        # Parameters are below 2, with some roundings in each of eight steps; batch variances of 30 have larger ones.
        np.testing.assert_allclose(leaf, other, rtol=1e-6, atol=4e-6)


def assert_same_ranks(actual, expected):
    """Of two rankings by networks that differ by roundings: subset and distance of all but a few images are equal."""
    for key in ("example_id", "label"):
        np.testing.assert_array_equal(actual[key], expected[key])
    assert np.mean(actual["predicted"] == expected["predicted"]) > 0.99
    # In few steps an attack may just fail.
    failed_in_one = np.sum(np.isinf(actual["distance"]) != np.isinf(expected["distance"]))
    assert failed_in_one < 0.01 * len(actual["distance"])
    # Such an image goes from its subset to the last one, and an image over each border between them, nine at most. Two
    # images as far from the boundary as one another may change places.
    assert np.sum(actual["subset"] != expected["subset"]) <= 10 * failed_in_one + 0.005 * len(actual["subset"])
    found_by_both = np.isfinite(actual["distance"]) & np.isfinite(expected["distance"])
    difference = actual["distance"][found_by_both] - expected["distance"][found_by_both]
    assert np.quantile(np.abs(difference), 0.98) < 1e-5


@pytest.mark.parametrize("devices", [1, 4])
def test_processes_change_nothing(together, tmp_path, devices):
    alone(tmp_path, devices, "vanilla")
    one = alone(tmp_path, devices, "rank")
    ranked = pathlib.Path("robustness/vanilla/seed_0")
    for name in ("train.npz", "validation.npz", "test.npz"):
        assert_same_ranks(*(files.read_npz(workdir.path / ranked / name) for workdir in (together, one)))
        # Trained on the same ranks: an image in another subset has another label, and that is no rounding.
        shutil.copy(together.path / ranked / name, one.path / ranked / name)
    alone(tmp_path, devices)
    for name in ("vanilla", "ar_adals"):
        assert_same_run(together, one, name)
    trained_on = [
        [value for key, value in row.items() if key.startswith("soft_label/")] for row in rows(one, "ar_adals")
    ]
    first, last = (labels for labels in trained_on if labels)
    assert first == [1] * 10
    assert min(last) < 1
    found = sorted(path.relative_to(one.path) for path in pathlib.Path(one.path).glob("predictions/*/seed_0/*.npz"))
    assert len(found) == 3
    for name in found:
        expected, actual = (files.read_npz(workdir.path / name) for workdir in (one, together))
        for key in ("example_id", "label"):
            np.testing.assert_array_equal(actual[key], expected[key], err_msg=str(name))
        np.testing.assert_allclose(actual["logits"], expected["logits"], rtol=0, atol=2e-5, err_msg=str(name))


def test_one_process_writes(together):
    run = pathlib.Path(together.run("ar_adals", 0))
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["4", "8"]
    left = [path.name for path in pathlib.Path(together.path).rglob("*") if path.name.endswith(".new")]
    assert left == []
    assert not list(pathlib.Path(together.path).glob(".seen*"))
    assert list(pathlib.Path(together.path).rglob("parts/*")) == []
    for made in ("gallery.npz", "evaluation.json", "report/index.html"):
        assert (together.path / made).exists()


@pytest.fixture
def half(together, tmp_path):
    """A copy of their workdir in which AR-AdaLS is trained to the half."""
    path = tmp_path / "half"
    shutil.copytree(together.path, path)
    shutil.rmtree(Workdir(path).run("ar_adals", 0) / "checkpoints" / str(STEPS))
    return Workdir(path)


def test_one_process_goes_on_where_two_were(together, half):
    alone(half.path, devices=1, stage="train")
    assert_same_run(half, together, "ar_adals")


def test_two_processes_go_on_with_the_other_mapping(together, half):
    codes, said = by_two_processes(half.path, stage="train", **{"run.mapping": "shard_map"})
    assert codes == [0, 0], said
    assert "mapped by shard_map" in said[0][1]
    assert "resuming at step 4 of 8" in said[0][1]
    assert_same_run(half, together, "ar_adals")


def test_processes_that_do_not_share_a_workdir(tmp_path):
    codes, said = by_two_processes(tmp_path / "mine", tmp_path / "yours")
    assert codes == [1, 1], said
    for _, log in said:
        assert "Traceback" not in log
        assert f"error: --workdir={tmp_path}" in log
        assert (
            "is another folder in process 1 than in process 0; choose a folder on storage that all processes share"
            in log
        )
