"""A stop on request: current work is finished and kept, and the process ends with exit code 0.

Schedulers send SIGTERM some 30 seconds before they kill; Ctrl-C asks for the same.
"""

import atexit
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

_asked = threading.Event()


class Stopped(Exception):
    """The process was asked to stop; the message says what is kept and how to continue."""


def listen() -> None:
    """From now on SIGTERM and Ctrl-C ask for a stop; a second Ctrl-C interrupts. Only in the main thread."""
    # JAX's own handler informs all hosts.
    if not jax.distributed.is_initialized():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _ask)
        # At interpreter shutdown nothing is left to stop, and the exit code must stay.
        atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)


def _ask(number, _) -> None:
    if _asked.is_set() and number == signal.SIGINT:
        raise KeyboardInterrupt
    _asked.set()
    # Not by logging, which the signal may have interrupted.
    os.write(2, b"asked to stop: what is under way is finished first\n")


def is_last(step: int) -> bool:
    """Whether to stop after this training step. Every host must call it after each step: all stop at the same one.

    Hosts agree on a step ahead of them. If that comes after the end of a run, they do not stop, and the kill comes.
    """
    if jax.distributed.is_initialized():
        return multihost_utils.reached_preemption_sync_point(step)
    return _asked.is_set()


def stop_if_asked(doing: str) -> None:
    """Raises `Stopped` if a stop was requested. Call it between jobs; `doing` names the next one.

    Never on several hosts, which could not agree on this place: there the kill comes, which part files survive.
    """
    if _asked.is_set():
        raise Stopped(f"stopped before {doing}; all that was done is kept, and the same command goes on there")
