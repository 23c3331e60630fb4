"""SIGTERM as a scheduler sends it: exit code 0, one line that says how to go on, and nothing lost."""

import os
import signal
import socket
import subprocess
import sys

import one_convolution
import pytest
import tensorflow as tf

from arada.errors import UserError
from arada.runtime import console, files, preemption

pytestmark = pytest.mark.usefixtures("one_convolution")

COMMAND = (
    *(sys.executable, "-m", "arada.main", f"--config={one_convolution.CONFIG}:vanilla,testing"),
    *("--config.seeds=(0,)", "--config.run.log_every_steps=1", "--stage=vanilla"),
)
# Two processes of one job that take steps together, of which one is asked to stop.
STEPS = """
import os, signal, sys, time
import jax
from arada.runtime import preemption
address, number = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(address, num_processes=2, process_id=number)
preemption.listen()
for step in range(1, 400):
    if number == 1 and step == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)
    if preemption.is_last(step):
        break
print(step)
"""


def start(workdir):
    return subprocess.Popen(
        [*COMMAND, f"--workdir={workdir}", "--config.training.epochs=2000"],
        env=os.environ | {"XLA_FLAGS": ""},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_asks_and_the_second_one_interrupts(capfd):
    try:
        preemption.stop_if_asked("anything")
        preemption._ask(signal.SIGINT, None)
        assert capfd.readouterr().err == "asked to stop: finishing the current work first\n"
        with pytest.raises(preemption.Stopped, match="stopped before epoch 3; finished work is saved"):
            preemption.stop_if_asked("epoch 3")
        with pytest.raises(KeyboardInterrupt):
            preemption._ask(signal.SIGINT, None)
        # Schedulers repeat theirs.
        preemption._ask(signal.SIGTERM, None)
    finally:
        preemption._asked.clear()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (preemption.Stopped("stopped"), 0),
        (UserError("wrong"), "error: wrong"),
        (
            OSError(28, "No space left on device", "/a/b"),
            "error: [Errno 28] No space left on device: '/a/b'; after a fix the same command continues from the "
            "saved state",
        ),
        (
            tf.errors.UnavailableError(None, None, "503: the bucket does not answer\nmore"),
            "error: 503: the bucket does not answer; after a fix the same command continues from the saved state",
        ),
        (KeyboardInterrupt(), "interrupted; the same command continues from the saved state"),
    ],
)
def test_how_a_process_ends(error, code):
    with pytest.raises(SystemExit) as ended, console.ending_in_one_line():
        raise error
    assert ended.value.code == code


def test_a_run_stops_with_a_checkpoint_and_exit_code_0(tmp_path):
    with start(tmp_path) as process:
        for line in process.stderr:
            if "compiled in" in line:
                break
        # Held by the first process.
        second = subprocess.run(
            [*COMMAND, f"--workdir={tmp_path}", "--config.training.epochs=2000"],
            env=os.environ | {"XLA_FLAGS": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert second.returncode == 1
    assert f"error: {tmp_path}/runs/vanilla/seed_0 is being written by process {process.pid} on" in second.stderr
    assert process.returncode == 0, rest
    said = rest.strip().splitlines()[-1]
    assert "vanilla/seed_0: stopped at step" in said
    assert said.endswith("the same command continues from there")
    step = int(said.split("at step ")[1].split()[0])
    run = tmp_path / "runs" / "vanilla" / "seed_0"
    assert (run / "checkpoints" / str(step)).exists()
    assert [row["step"] for row in files.read_json_lines(run / "metrics.jsonl")] == list(range(1, step + 1))
    assert not (run / "owner.json").exists()


def test_hosts_of_a_job_stop_at_the_same_step():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", STEPS, address, str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = [host.communicate(timeout=120) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    steps = [int(out) for out, _ in said]
    assert steps[0] == steps[1]
    assert 5 <= steps[0] < 399
