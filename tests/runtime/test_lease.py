"""One process at a time in a folder, and a killed one's place is free at once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from etils import epath

from arada.errors import UserError
from arada.runtime import files, lease

HOLDER = """
import sys, time
from etils import epath
from arada.runtime import lease
with lease.held(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path) / "runs" / "vanilla" / "seed_0"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lease, "STALE", 0.6)


@pytest.fixture
def elsewhere(folder):
    """elsewhere(age): the folder as a process of another host has left it, so many seconds ago."""

    def write(age, host="elsewhere"):
        owner = {"host": host, "process_space": "pid:[1]", "pid": 7, "started": "1", "token": "t"}
        files.write_json(folder / "owner.json", owner | {"time": time.time() - age})

    return write


def test_the_folder_is_free_again_when_its_owner_leaves(folder):
    for _ in range(2):
        with lease.held(folder):
            assert files.read_json(folder / "owner.json")["pid"] == os.getpid()
            lease.check()
        assert list(folder.iterdir()) == []
    with pytest.raises(RuntimeError, match="crash"), lease.held(folder):
        raise RuntimeError("crash")
    assert list(folder.iterdir()) == []


def test_a_second_process_is_refused_and_the_place_of_a_killed_one_taken_at_once(folder):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "held\n"
        before = (folder / "owner.json").read_bytes()
        with (
            pytest.raises(UserError, match=rf"{folder} is being written by process {owner.pid} on .*; wait until"),
            lease.held(folder),
        ):
            pass
        assert (folder / "owner.json").read_bytes() == before
        owner.send_signal(signal.SIGKILL)
    assert (folder / "owner.json").exists()
    begin = time.monotonic()
    with lease.held(folder):
        lease.check()
    assert time.monotonic() - begin < lease.HEARTBEAT


def test_a_number_that_was_given_again_is_another_process(folder):
    with lease.held(folder):
        owner = files.read_json(folder / "owner.json")
    files.write_json(folder / "owner.json", owner | {"started": "1"})
    with lease.held(folder):
        assert files.read_json(folder / "owner.json")["token"] != owner["token"]


def test_an_owner_on_another_host_is_gone_when_it_was_silent_for_long(folder, elsewhere):
    elsewhere(lease.STALE + 5)
    with lease.held(folder):
        assert files.read_json(folder / "owner.json")["pid"] == os.getpid()


@pytest.mark.parametrize("age", [0.1, -1000.0], ids=["silent for a moment", "whose clock is ahead"])
def test_an_owner_on_another_host_is_given_time_to_show_itself(folder, elsewhere, quick, age):
    elsewhere(age)
    with lease.held(folder):
        assert files.read_json(folder / "owner.json")["pid"] == os.getpid()


def test_an_owner_on_another_host_that_shows_itself_stays(folder, elsewhere, quick, monkeypatch):
    elsewhere(0.1)
    monkeypatch.setattr(lease.time, "sleep", lambda _: elsewhere(0.0))
    with (
        pytest.raises(UserError, match=r"is being written by process 7 on elsewhere, and two writers would corrupt it"),
        lease.held(folder),
    ):
        pass


def test_an_owner_renews_its_sign(folder, quick):
    with lease.held(folder):
        first = files.read_json(folder / "owner.json")["time"]
        deadline = time.monotonic() + 10
        while files.read_json(folder / "owner.json")["time"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_an_owner_that_was_replaced_stops_and_leaves_the_file(folder, elsewhere):
    with lease.held(folder):
        elsewhere(0.0)
        with pytest.raises(UserError, match=r"process 7 on elsewhere now writes to .*; this one stops"):
            lease.check()
    assert files.read_json(folder / "owner.json")["host"] == "elsewhere"


def test_a_folder_that_vanished_is_reported_and_not_made_again(folder, quick):
    with lease.held(folder):
        shutil.rmtree(folder)
        with pytest.raises(UserError, match=f"{folder} has vanished while it was written to"):
            lease.check()
        time.sleep(4 * lease.HEARTBEAT)
    assert not folder.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"pid": 1}', json.dumps({"host": 3})])
def test_what_is_no_sign_of_an_owner_is_overwritten(folder, content):
    files.write_bytes(folder / "owner.json", content.encode())
    with lease.held(folder):
        lease.check()


def test_what_a_kill_left_half_written_is_tidied(folder):
    files.write_bytes(folder / "metrics.jsonl", b"{}\n")
    (folder / "metrics.jsonl.0123.new").write_text("{")
    with lease.held(folder):
        assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "owner.json"]


def test_other_hosts_of_a_job_leave_it_to_the_first(folder, monkeypatch):
    monkeypatch.setattr(lease.hosts, "is_first", lambda: False)
    with lease.held(folder):
        lease.check()
        assert not folder.exists()
