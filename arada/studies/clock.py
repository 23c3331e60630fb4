"""The hours of a run, over all its starts."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from etils import epath

from arada.errors import UserError
from arada.runtime import files, hosts

# Seconds between two entries; a kill loses at most this much.
HEARTBEAT = 30.0


@contextlib.contextmanager
def clock(file: epath.Path) -> Iterator[Callable[[], float]]:
    """Counts hours in `file`, after those that earlier starts left there; yields a function that returns them.

    A standstill of the process or its machine counts as at most two heartbeats.
    """
    counted = (files.read_json(file)["hours"] if file.exists() else 0.0), time.monotonic()
    ended = threading.Event()

    def hours() -> float:
        before, since = counted
        # A beat that comes late comes from a process that stood still.
        return before + min(time.monotonic() - since, 2 * HEARTBEAT) / 3600

    def beat() -> None:
        nonlocal counted
        while not ended.wait(HEARTBEAT):
            counted = hours(), time.monotonic()
            if hosts.is_first():
                with contextlib.suppress(UserError, OSError):
                    files.write_json(file, {"hours": hours()})

    thread = threading.Thread(target=beat, daemon=True, name=f"hours in {file}")
    thread.start()
    try:
        yield hours
    finally:
        ended.set()
        thread.join()
        if hosts.is_first():
            files.write_json(file, {"hours": hours()})
