import logging
import math

import pytest
from clocks import Time

from arada.runtime import progress
from arada.runtime.progress import Progress, clock


@pytest.fixture
def time(monkeypatch):
    time = Time()
    monkeypatch.setattr(progress, "time", time)
    return time


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="arada.runtime.progress")
    return lambda: [record.message for record in caplog.records]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (5, "0:05"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (61, "1:01"),
        (600, "10:00"),
        (3599.4, "59:59"),
        (3599.6, "1:00:00"),
        (3723, "1:02:03"),
        (90_000, "25:00:00"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_rate_and_time_left_by_hand(time, lines):
    job = Progress("vanilla/seed_0", "step", 320, 100)
    job.update(1)  # compiled: the clock starts here
    time.now += 10
    job.update(41, "loss 0.500")
    # 40 steps of 100 images in 10 s; 279 steps are left, 4 a second.
    assert job.images_per_second == pytest.approx(400)
    assert lines() == ["vanilla/seed_0: step 41/320, 400 images/s, 1:10 left, loss 0.500"]


def test_a_resumed_job_counts_from_where_it_began(time, lines):
    job = Progress("rank", "batch", 100, 8)
    time.now += 60
    job.update(90)
    time.now += 10
    job.update(95)
    assert job.images_per_second == pytest.approx(4)
    assert lines() == ["rank: batch 95/100, 4 images/s, 0:10 left"]


def test_speaks_every_few_seconds_and_at_the_end(time, lines):
    job = Progress("job", "step", 10, 1, every_seconds=5)
    for done in range(11):
        job.update(done)
        time.now += 2
    # At 6, 12 and 18 seconds, and when all is done; the first second counts from the making.
    assert [line.split(",")[0] for line in lines()] == [
        "job: step 3/10",
        "job: step 6/10",
        "job: step 9/10",
        "job: step 10/10",
    ]
    assert lines()[-1] == "job: step 10/10, 0 images/s, 0:00 left"


def test_no_rate_before_time_has_passed(time, lines):
    job = Progress("job", "step", 10, 1)
    assert math.isnan(job.images_per_second)
    job.update(1)
    job.update(2)  # no time has passed
    time.now += 10
    job.update(1)  # nothing is done
    assert math.isnan(job.images_per_second)
    assert lines() == []
