"""The installation: versions, devices, memory, optional packages, the host."""

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
from collections.abc import Iterator

import jax

from arada.machines.findings import Finding
from arada.runtime import backend, machine

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# The consequence of a missing package, and the command that installs it.
OPTIONAL = {
    "tensorflow": ("no data of TensorFlow Datasets, and no gs:// without gcsfs", "pip install 'arada[tfds]'"),
    "tensorflow_datasets": ("no data of TensorFlow Datasets", "pip install 'arada[tfds]'"),
    "tensorboard": ("metrics only in metrics.jsonl", "pip install 'arada[tensorboard]'"),
    "matplotlib": ("no report", "pip install 'arada[experiments]'"),
    "jinja2": ("no report", "pip install 'arada[experiments]'"),
    "relplot": ("no smooth calibration error", "pip install 'arada[experiments]'"),
    "clu": ("no training", "pip install 'arada[experiments]'"),
    "submitit": ("no sweeps as a Slurm array", "pip install 'arada[slurm]'"),
}
# Files that exist if the kernel has an accelerator, with its kind and the JAX that uses it.
ACCELERATORS = {
    "/dev/nvidiactl": ("gpu", "jax[cuda13]"),
    "/dev/accel0": ("tpu", "jax[tpu]"),
    "/dev/vfio/0": ("tpu", "jax[tpu]"),
}


def findings() -> Iterator[Finding]:
    """Raises UserError if JAX cannot open its devices."""
    yield _versions()
    yield _devices()
    yield from _unseen_accelerators()
    yield from _host()
    yield from _optional()
    yield _programs()


def _versions() -> Finding:
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Finding("versions", "ok", text, values=versions)


def _devices() -> Finding:
    devices = backend.devices()
    free = memory_of(devices[0])
    values = {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)}
    values |= {"memory_gb": free / 1e9, "processes": jax.process_count()}
    text = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}), {free / 1e9:.3g} GB "
    return Finding(
        "devices", "ok", text + ("of the host free" if values["platform"] == "cpu" else "each"), values=values
    )


def memory_of(device: jax.Device) -> int:
    """Bytes available to programs on `device`; the host's free memory for a CPU, 0 if unknown."""
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit", 0) or machine.available_memory()


def _unseen_accelerators() -> Iterator[Finding]:
    asked = os.environ.get("JAX_PLATFORMS", "")
    for file, (kind, package) in ACCELERATORS.items():
        if pathlib.Path(file).exists() and jax.default_backend() != kind and not asked:
            yield Finding(
                "accelerator", "wrong", f"JAX does not use this machine's {kind}", f"pip install -U '{package}'"
            )
            return


def _host() -> Iterator[Finding]:
    free = machine.available_memory()
    values = {"cores": machine.cores(), "free_memory_gb": free / 1e9}
    yield Finding("host", "ok", f"{machine.cores()} cores, {free / 1e9:.3g} GB of memory free", values=values)
    if jax.default_backend() == "cpu" and machine.can_keep_memory() and not machine.keeps_memory():
        yield Finding(
            "keep_memory",
            "note",
            "off: every training step takes fresh pages from the system",
            "before training: source launch/environment.sh; keep_memory",
        )


def _optional() -> Iterator[Finding]:
    absent = {name: entry for name, entry in OPTIONAL.items() if importlib.util.find_spec(name) is None}
    present = [name for name in OPTIONAL if name not in absent]
    yield Finding(
        "optional packages", "ok", ", ".join(present) or "none", values={"there": present, "absent": list(absent)}
    )
    for name, (consequence, command) in absent.items():
        yield Finding(name, "note", f"not installed: {consequence}", command)


def _programs() -> Finding:
    flags, cache = os.environ.get("XLA_FLAGS", ""), jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    text = f"compiled programs are cached in {cache or 'WORKDIR/compiled'}; XLA_FLAGS={flags or 'not set'}"
    return Finding("XLA", "ok", text, values={"xla_flags": flags, "compilation_cache": cache or ""})
