"""Streamed examples that are decoded once."""

import numpy as np
import pytest

from arada.data import cache
from arada.data.splits import Split
from arada.runtime import machine

RNG = np.random.default_rng(0)
SPLIT = Split(
    RNG.integers(0, 256, (10, 4, 4, 3), np.uint8), np.arange(10, dtype=np.int32) % 3, np.arange(10, dtype=np.int32)
)


class Streamed:
    """As a split that decodes what it is asked for, and tells how often."""

    image_shape, example_id = SPLIT.image_shape, SPLIT.example_id

    def __init__(self):
        self.decoded = []

    def __len__(self):
        return len(SPLIT)

    def in_order(self, batch_size, *, batches=None):
        for number, batch in zip(batches, SPLIT.in_order(batch_size, batches=batches), strict=True):
            self.decoded.append((batch_size, int(number)))
            yield batch


def assert_as_split(split, batch_size, batches):
    found, expected = (list(of.in_order(batch_size, batches=batches)) for of in (split, SPLIT))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            np.testing.assert_array_equal(ours[key], theirs[key])


@pytest.fixture
def memory(monkeypatch):
    return lambda size: monkeypatch.setattr(machine, "available_memory", lambda: size)


def test_a_batch_is_decoded_once(memory):
    memory(2 * 10 * 48)
    streamed = Streamed()
    split = cache.cached(streamed)
    assert len(split) == 10
    assert split.image_shape == (4, 4, 3)
    assert_as_split(split, 4, [0, 2])
    assert streamed.decoded == [(4, 0), (4, 2)]
    assert_as_split(split, 4, None)
    assert_as_split(split, 4, None)
    assert streamed.decoded == [(4, 0), (4, 2), (4, 1)]
    assert_as_split(split, 3, [1])
    assert streamed.decoded[-1] == (3, 1)


def test_what_does_not_fit_is_read_again(memory, caplog):
    memory(2 * 10 * 48 - 1)
    streamed = Streamed()
    with caplog.at_level("INFO"):
        assert cache.cached(streamed) is streamed
    assert "are read again every epoch" in caplog.text


def test_what_is_in_memory_stays_as_it_is(memory):
    memory(0)
    assert cache.cached(SPLIT) is SPLIT
