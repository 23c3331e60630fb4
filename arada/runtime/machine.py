"""The host's memory and cores, and glibc's settings for large blocks."""

import os
import platform

from etils import epath

# `launch/environment.sh` explains the settings.
_KEEPS = "glibc.malloc.trim_threshold"


def available_memory() -> int:
    """Bytes of memory that are free or can be freed; 0 if unknown (not Linux)."""
    meminfo = epath.Path("/proc/meminfo")
    if not meminfo.exists():
        return 0
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def can_keep_memory() -> bool:
    """Whether glibc can keep the blocks that a training step on a CPU allocates and frees."""
    return platform.libc_ver()[0] == "glibc"


def keeps_memory() -> bool:
    """Whether glibc keeps them: `keep_memory` of launch/environment.sh ran before this process."""
    return _KEEPS in os.environ.get("GLIBC_TUNABLES", "")
