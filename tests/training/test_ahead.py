"""A thread that reads one item ahead."""

import threading

import pytest

from arada.training.ahead import Prefetcher


def test_items_come_in_their_order():
    with Prefetcher(range(5)) as items:
        assert list(items) == [0, 1, 2, 3, 4]


def test_the_next_item_is_read_before_it_is_asked_for():
    read = [threading.Event() for _ in range(3)]

    def items():
        for event in read:
            event.set()
            yield event

    with Prefetcher(items()) as ahead:
        assert read[0].wait(5)
        assert not read[1].is_set()
        next(ahead)
        assert read[1].wait(5)
        assert not read[2].is_set()


def test_an_error_comes_where_its_item_would():
    def items():
        yield 1
        raise OSError("gone")

    with Prefetcher(items()) as ahead:
        assert next(ahead) == 1
        with pytest.raises(OSError, match="gone"):
            next(ahead)


def test_what_is_left_open_is_closed():
    closed = []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    with Prefetcher(items()) as ahead:
        next(ahead)
    assert closed == [True]
