"""One process at a time in a folder: its owner keeps renewing a file, because object stores have no locks.

A killed owner on this host is detected at once. An owner on another host counts as gone if it has not renewed the file
for `STALE` seconds.
"""

import contextlib
import logging
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from arada.errors import UserError
from arada.runtime import files, hosts

logger = logging.getLogger(__name__)

# Seconds. The clocks of two hosts may differ by up to STALE - HEARTBEAT.
HEARTBEAT, STALE = 15.0, 120.0

# The token of each folder that this process holds.
_held: dict[epath.Path, str] = {}


@contextlib.contextmanager
def held(directory: epath.Path) -> Iterator[None]:
    """Makes this process the only writer in `directory`. Raises UserError if another process is writing there.

    Of several processes of a run the first one holds the folder; if it is refused, all raise the error.
    """
    file = directory / "owner.json"
    me = {
        "host": socket.gethostname(),
        "process_space": _process_space(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "token": uuid.uuid4().hex,
    }
    with hosts.failing_together():
        if hosts.is_first():
            _wait_until_free(directory, file)
            files.write_json(file, me | {"time": time.time()})
    if not hosts.is_first():
        yield
        return
    for leftover in files.matching(directory, "*.new"):
        leftover.unlink(missing_ok=True)
    _held[directory] = str(me["token"])
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(HEARTBEAT):
            # A failure also occurs in the main thread, which reports it.
            with contextlib.suppress(UserError, OSError):
                if _token(file) == me["token"]:
                    files.write_json(file, me | {"time": time.time()})

    thread = threading.Thread(target=renew, daemon=True, name=f"lease of {directory}")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        del _held[directory]
        with contextlib.suppress(OSError):
            if _token(file) == me["token"]:
                file.unlink()


def check() -> None:
    """Raises UserError if this process has lost a folder that it held. Call it before a write."""
    for directory, token in _held.items():
        file = directory / "owner.json"
        if not file.exists():
            raise UserError(f"{directory} has vanished while it was written to; restore it, or start again")
        # An unreadable file does not mean another owner.
        owner = _read(file)
        if owner and owner["token"] != token:
            raise UserError(f"{_name(owner)} now writes to {directory}; this one stops")


def _wait_until_free(directory: epath.Path, file: epath.Path) -> None:
    first, begin = _read(file), time.monotonic()
    owner = first
    while owner and first and not _gone(owner):
        if _here(owner) or owner["time"] != first["time"]:
            raise UserError(
                f"{directory} is being written by {_name(owner)}, and two writers would corrupt it; wait until it has "
                f"ended or stop it, then the same command continues"
            )
        # Also checked with this clock, because the clock of the owner's host may be ahead.
        if time.monotonic() - begin > STALE:
            return
        if owner is first:
            logger.info("%s: waiting to see whether %s has ended", directory, _name(owner))
        time.sleep(HEARTBEAT / 15)
        owner = _read(file)


def _gone(owner: dict[str, Any]) -> bool:
    if _here(owner):
        return _started(owner["pid"]) != owner["started"]
    return time.time() - owner["time"] > STALE


def _here(owner: dict[str, Any]) -> bool:
    """Whether the owner's process id is valid here."""
    return (owner["host"], owner["process_space"]) == (socket.gethostname(), _process_space())


def _process_space() -> str:
    """An id of the container, which distinguishes containers on one host."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """The start of a process in ticks since boot, because process ids are reused; "" if it has ended."""
    try:
        # The fields after the name, which may contain any characters: the first is the state, the 20th the start.
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    if os.path.exists("/proc/self/stat"):
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "unknown"


def _name(owner: dict[str, Any]) -> str:
    return f"process {owner['pid']} on {owner['host']}"


def _token(file: epath.Path) -> str | None:
    owner = _read(file)
    return owner["token"] if owner else None


def _read(file: epath.Path) -> dict[str, Any] | None:
    """The owner; None if there is none or the file is invalid."""
    types = {"host": str, "process_space": str, "pid": int, "started": str, "token": str, "time": float}
    try:
        owner = files.read_json(file) if file.exists() else None
    except (UserError, OSError):
        return None
    valid = isinstance(owner, dict) and all(isinstance(owner.get(key), kind) for key, kind in types.items())
    return owner if valid else None
