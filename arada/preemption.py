"""A stop on request: what is under way is finished and kept, and the process ends with exit code 0.

Schedulers send SIGTERM some 30 seconds before they kill; Ctrl-C asks for the same.
"""

import itertools
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

_asked = threading.Event()
_points = itertools.count(1)


class Stopped(Exception):
    """The process was asked to stop; the message says what is kept and how to go on."""


def listen() -> None:
    """From now on SIGTERM and Ctrl-C ask for a stop; a second Ctrl-C interrupts. Only in the main thread."""
    # JAX's own handler tells all hosts.
    if not jax.distributed.is_initialized():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _ask)


def _ask(number, _) -> None:
    if _asked.is_set() and number == signal.SIGINT:
        raise KeyboardInterrupt
    _asked.set()
    # Not by logging, in whose middle this may be.
    os.write(2, b"asked to stop: what is under way is finished first\n")


def step_is_last() -> bool:
    """Whether to stop after this training step. To be called once a step by every host: all stop at the same one."""
    if jax.distributed.is_initialized():
        # Its numbers must go on ascending, where the steps of one run after another begin anew.
        return multihost_utils.reached_preemption_sync_point(next(_points))
    return _asked.is_set()


def stop_if_asked(doing: str) -> None:
    """Raises `Stopped` if a stop was asked for: where nothing is under way, but `doing` would be next.

    Never on several hosts, which could not agree on this place: there the kill comes, which part files survive.
    """
    if _asked.is_set():
        raise Stopped(f"stopped before {doing}; all that was done is kept, and the same command goes on there")
