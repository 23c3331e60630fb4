"""The scaling command: its layouts, commands and arithmetic. Its runs are those of `arada.main`."""

import argparse
import json
import sys

import pytest

from launch.benchmarks import scaling
from launch.benchmarks.scaling import Layout

ARGUMENTS = argparse.Namespace(config="configs/digits.py", presets="adals", epochs=3, batch_per_device=50)


def test_layouts_have_the_same_cores_either_way():
    assert scaling.layouts([1, 2, 4]) == [Layout(1, 1), Layout(1, 2), Layout(2, 1), Layout(1, 4), Layout(4, 1)]
    assert [str(layout) for layout in scaling.layouts([1, 2])] == [
        "1 process x 1 device",
        "1 process x 2 devices",
        "2 processes x 1 device",
    ]


def test_one_process_needs_no_coordinator():
    (command,) = scaling.commands(Layout(1, 2), ARGUMENTS, "/w")
    assert command[1:6] == ["-m", "arada.main", "--config=configs/digits.py:adals", "--stage=train", "--workdir=/w"]
    assert "--config.training.batch_size=100" in command
    assert not any("process" in word for word in command)


def test_processes_share_a_coordinator():
    first, second = scaling.commands(Layout(2, 1), ARGUMENTS, "/w")
    assert (first.pop(), second.pop()) == ("--process_id=0", "--process_id=1")
    assert first == second
    assert first[-1] == "--num_processes=2"
    assert first[-2].startswith("--coordinator_address=127.0.0.1:")
    assert "--config.training.batch_size=100" in first


def pretend(monkeypatch, script):
    def commands(layout, arguments, workdir):
        return [[sys.executable, "-c", script, workdir, str(process)] for process in range(layout.processes)]

    monkeypatch.setattr(scaling, "commands", commands)


def test_the_first_epoch_does_not_count(monkeypatch):
    rows = [{"epoch": 1.0, "images_per_second": 1.0}, {"epoch": 1.5, "loss": 0.0}]
    rows += [{"epoch": epoch, "images_per_second": rate} for epoch, rate in ((1.5, 30.0), (2.0, 90.0), (2.5, 40.0))]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    script = f"""
import os, pathlib, sys
assert len(os.sched_getaffinity(0)) == 1
run = pathlib.Path(sys.argv[1], "runs", "adals", "seed_0")
run.mkdir(parents=True)
(run / "metrics.jsonl").write_text({lines!r})
"""
    pretend(monkeypatch, script)
    assert scaling.images_per_second(Layout(1, 1), ARGUMENTS) == 40.0


def test_a_process_that_fails_is_told(monkeypatch):
    pretend(monkeypatch, "import sys; sys.exit('error: process ' + sys.argv[2])")
    with pytest.raises(RuntimeError, match=r"1 process x 1 device: process 0 failed:\nerror: process 0"):
        scaling.images_per_second(Layout(1, 1), ARGUMENTS)


def test_shares_of_the_ideal():
    lines = scaling.table({Layout(1, 1): [100.0, 90.0, 120.0], Layout(2, 1): [150.0]}, 50).splitlines()
    assert [" ".join(line.split()) for line in lines[2:]] == [
        "| 1 process x 1 device | 1 | 50 | 100 (90 - 120) | 100 |",
        "| 2 processes x 1 device | 2 | 100 | 150 (150 - 150) | 75 |",
    ]


def test_more_cores_than_there_are(capsys):
    with pytest.raises(SystemExit):
        scaling.main(["--cores=1,4096"])
    assert "--cores=1,4096, but this process may use" in capsys.readouterr().err
