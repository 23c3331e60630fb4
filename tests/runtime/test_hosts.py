"""How processes find each other, and what ends all of them. That they compute the same: tests/stages."""

import socket

import jax
import numpy as np
import pytest

from arada.errors import UserError
from arada.runtime import hosts
from configs import digits


@pytest.fixture
def joined(monkeypatch):
    """What JAX is asked to join, as a list of calls, without doing it."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: calls.append((args, kwargs)))
    before = jax.config.jax_cpu_collectives_implementation
    gpus = "CUDA_VISIBLE_DEVICES", "SLURM_GPUS_PER_TASK", "SLURM_LOCALID"
    for name in ("SLURM_NTASKS", "SLURM_STEP_NODELIST", *gpus):
        monkeypatch.delenv(name, raising=False)
    yield calls
    jax.config.update("jax_cpu_collectives_implementation", before)


def test_alone_nothing_is_tried(joined, monkeypatch):
    hosts.connect()
    hosts.connect("elsewhere:1", 1, 0)
    # One task of an array.
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node1")
    hosts.connect()
    assert joined == []


def test_tasks_of_slurm_find_each_other(joined, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-4]")
    hosts.connect()
    assert joined == [((), {"cluster_detection_method": "slurm", "local_device_ids": None})]


@pytest.mark.parametrize(
    ("visible", "on_node", "per_task", "ids"),
    [
        ("0,1,2,3", "2", "", None),  # all see all: JAX takes the one of the task's number
        ("3", "3", "", [0]),  # each sees its own
        ("0,1", "1", "2", [0, 1]),  # --gpus-per-task=2, the second task of the node
        ("0", "0", "1", [0]),
        ("", "3", "", None),  # no GPU
    ],
)
def test_a_task_of_slurm_takes_the_gpus_that_are_its_own(joined, monkeypatch, visible, on_node, per_task, ids):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node1")
    monkeypatch.setenv("SLURM_LOCALID", on_node)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if per_task:
        monkeypatch.setenv("SLURM_GPUS_PER_TASK", per_task)
    hosts.connect()
    ((_, said),) = joined
    assert said["local_device_ids"] == ids


@pytest.mark.parametrize(("name", "error"), [("SLURM_NTASKS", ValueError), ("NOT_SLURM", RuntimeError)])
def test_tasks_that_do_not_find_each_other_do_not_run_alone(joined, monkeypatch, name, error):
    def fail(**_):
        raise error("coordinator_address should be defined.\nand more")

    monkeypatch.setenv(name, "4")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[1-4]")
    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(UserError, match=r"did not connect \(coordinator_address should be defined.\); give"):
        hosts.connect()


def test_libtpu_without_a_tpu_is_alone(joined, monkeypatch):
    def nowhere(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(hosts.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(jax.distributed, "initialize", nowhere)
    hosts.connect()


@pytest.fixture
def listening():
    """A port on which somebody listens."""
    with socket.create_server(("localhost", 0)) as server:
        yield server.getsockname()[1]


def test_flags_name_the_others(joined, listening):
    hosts.connect(f"localhost:{listening}", 2, 1)
    settings = {"cluster_detection_method": "deactivate", "initialization_timeout": 300}
    assert joined == [((f"localhost:{listening}", 2, 1), settings)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("10.0.0.1:1234", 0, -1), "--num_processes 0 and --process_id -1; give all three, or none"),
        (("", 2, 0), "--coordinator_address is ''"),
        (("10.0.0.1:1234", 2, 2), r"--process_id is 2; it must be in 0..1"),
        (("10.0.0.1", 2, 0), "--coordinator_address is '10.0.0.1'; it must be HOST:PORT"),
    ],
)
def test_mistakes_in_flags(joined, arguments, message):
    with pytest.raises(UserError, match=message):
        hosts.connect(*arguments)
    assert joined == []


def test_nobody_at_the_address(joined):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UserError, match=f"process 1 cannot reach process 0 at --coordinator_address=localhost:{port}"):
        hosts.connect(f"localhost:{port}", 2, 1, timeout_seconds=0)
    assert joined == []


def test_a_port_that_is_taken(joined, listening):
    with pytest.raises(UserError, match=f"{listening}, but process 0 cannot listen there .*; choose another port"):
        hosts.connect(f"localhost:{listening}", 2, 0)
    assert joined == []


@pytest.fixture
def other_says(monkeypatch):
    """other_says(f): this is the first of two processes, and the other one has f(value) where this has a value."""

    def says(f):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(hosts.multihost_utils, "process_allgather", lambda value: np.array([value, f(value)]))

    return says


def test_a_mistake_of_one_process_ends_all(other_says):
    def run(*mistakes):
        with hosts.failing_together():
            for mistake in mistakes:
                raise UserError(mistake)

    other_says(lambda failed: True)
    with pytest.raises(UserError, match="process 1 has stopped; see its log"):
        run()
    other_says(lambda failed: False)
    run()
    with pytest.raises(UserError, match="no data here"):
        run("no data here")


def test_processes_with_different_configs(other_says, tmp_path):
    other_says(lambda digest: digest + 1)
    with pytest.raises(UserError, match="the processes have different configs"):
        hosts.check_alike(tmp_path, digits.get_config())
