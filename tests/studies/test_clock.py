"""arada/studies/clock.py"""

import threading

import pytest
from clocks import Time

from arada.runtime import files
from arada.studies import clock


@pytest.fixture
def time(monkeypatch):
    time = Time()
    monkeypatch.setattr(clock, "time", time)
    return time


def test_all_starts_of_a_run_count(tmp_path, time):
    file = tmp_path / "hours.json"
    for _ in range(2):
        with clock.clock(file) as hours:
            time.now += 36
    assert hours() == pytest.approx(0.02)
    assert files.read_json(file) == {"hours": pytest.approx(0.02)}


def test_hours_are_kept_while_the_run_goes_on_and_standstill_is_not_counted(tmp_path, time, monkeypatch):
    file = tmp_path / "hours.json"
    written = threading.Semaphore(0)
    write_json = files.write_json

    def write(*args):
        write_json(*args)
        written.release()

    monkeypatch.setattr(files, "write_json", write)
    # The first beat comes after 90 hours: it counts as two beats.
    monkeypatch.setattr(clock, "HEARTBEAT", 0.018)
    with clock.clock(file):
        time.now += 90 * 3600
        assert written.acquire(timeout=20)
        assert written.acquire(timeout=20)
        assert files.read_json(file)["hours"] == pytest.approx(2 * 0.018 / 3600)
