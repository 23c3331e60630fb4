"""The host's memory, cores, and glibc's settings for large blocks."""

import os
import platform

from etils import epath

# The settings of `launch/environment.sh`, explained there.
_KEEPS = "glibc.malloc.trim_threshold"


def available_memory() -> int:
    """Bytes of memory that are free or can be freed; 0 if the system does not say (not Linux)."""
    meminfo = epath.Path("/proc/meminfo")
    if not meminfo.exists():
        return 0
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def can_keep_memory() -> bool:
    """Whether glibc could keep the blocks that a training step on a CPU takes and returns."""
    return platform.libc_ver()[0] == "glibc"


def keeps_memory() -> bool:
    """Whether it does: `keep_memory` of launch/environment.sh ran before this process."""
    return _KEEPS in os.environ.get("GLIBC_TUNABLES", "")
