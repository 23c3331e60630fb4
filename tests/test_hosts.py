"""Two processes of two devices run all stages as one process does with four devices or one, and take over from it."""

import os
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from arada import files, trained
from arada.experiment import Experiment
from arada.workdir import Workdir
from configs import digits

# Batches of 32, of which a process holds 16; 8 steps, the soft labels move after the fourth. 500 test images are five
# batches, three for one process and two for the other, the last of them short.
OVERRIDES = {
    "seeds": (0,),
    "training.epochs": 2,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.01,
    "ranking.attack": "fmn",
    "ranking.fmn.steps": 3,
    "evaluation.shifts": ("noise",),
    "evaluation.severities": (5,),
    "evaluation.out_of_distribution": (),
    "run.checkpoint_every_steps": 4,
}


def start(workdir, *, processes=1, number=0, address="", stage="all", **overrides):
    command = [sys.executable, "-m", "arada.main", "--config=configs/digits.py:ar_adals,testing"]
    command += [f"--workdir={workdir}", f"--stage={stage}"]
    command += [f"--config.{field}={value}" for field, value in (OVERRIDES | overrides).items()]
    if processes > 1:
        command += [f"--coordinator_address={address}", f"--num_processes={processes}", f"--process_id={number}"]
    flags = "--xla_force_host_platform_device_count=2"
    return subprocess.Popen(command, env=os.environ | {"XLA_FLAGS": flags}, stderr=subprocess.PIPE, text=True)


def by_two_processes(workdir, **settings):
    """Runs the command in two processes at once; returns what each of them said."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    pair = [start(workdir, processes=2, number=number, address=address, **settings) for number in range(2)]
    said = [process.communicate(timeout=240)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], "\n".join(said)
    return said


def alone(workdir, devices, stage="all"):
    config = digits.get_config("ar_adals,testing")
    config.update_from_flattened_dict(OVERRIDES | {"run.num_devices": devices})
    Experiment(config, str(workdir)).run(stage)
    return Workdir(workdir)
