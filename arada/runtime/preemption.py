"""A stop on request: the process finishes and saves the current work, and ends with exit code 0.

Schedulers send SIGTERM about 30 seconds before they kill; Ctrl-C requests the same.
"""

import atexit
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

_asked = threading.Event()


class Stopped(Exception):
    """The process was asked to stop; the message says what is saved and how to continue."""


def listen() -> None:
    """From now on SIGTERM and Ctrl-C request a stop; a second Ctrl-C interrupts. Only in the main thread."""
    # JAX's own handler informs all hosts.
    if not jax.distributed.is_initialized():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _ask)
        # During the interpreter's shutdown a signal must not change the exit code.
        atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)


def _ask(number, _) -> None:
    if _asked.is_set() and number == signal.SIGINT:
        raise KeyboardInterrupt
    _asked.set()
    # Logging is not safe here, because the signal may have interrupted it.
    os.write(2, b"asked to stop: finishing the current work first\n")


def is_last(step: int) -> bool:
    """Whether to stop after this training step. Every host must call it after each step; all stop at the same step.

    Hosts agree on a later step. If it is beyond the end of a run, they do not stop before the scheduler kills them.
    """
    if jax.distributed.is_initialized():
        return multihost_utils.reached_preemption_sync_point(step)
    return _asked.is_set()


def stop_if_asked(next_job: str) -> None:
    """Raises `Stopped` if a stop was requested. Call it between jobs, with the name of the next one.

    Has no effect with several hosts, which cannot agree on this place; they are killed, and continue from part files.
    """
    if _asked.is_set():
        raise Stopped(f"stopped before {next_job}; finished work is saved, and the same command continues there")
