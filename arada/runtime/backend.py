"""JAX's devices: settings before JAX opens them, and clear errors if they fail."""

import contextlib
import gc
import logging
import math
import os
from collections.abc import Iterator

import jax
import ml_collections
from etils import epath

from arada.errors import UserError
from arada.runtime import files

logger = logging.getLogger(__name__)

# Excludes kernels that are not deterministic, and fails if an operation has no other kernel.
# `xla_gpu_deterministic_ops` would also switch autotuning off. Autotuning may choose another kernel in each process,
# except for cached programs; the workdir caches compiled programs.
DETERMINISTIC = "--xla_gpu_exclude_nondeterministic_ops=true"


def configure(run: ml_collections.ConfigDict, workdir: epath.PathLike) -> None:
    """Applies `config.run` to JAX. Raises UserError if JAX is already in use.

    Ignores JAX_ENABLE_X64, which would change random numbers and is not part of a run's identity.
    """
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        logger.warning("JAX_ENABLE_X64 is set; it is switched off, because runs are in float32")
        jax.config.update("jax_enable_x64", False)
    if run.deterministic and DETERMINISTIC not in os.environ.get("XLA_FLAGS", "").split():
        if _in_use():
            raise UserError(
                f"run.deterministic is True, but JAX is already in use; set XLA_FLAGS={DETERMINISTIC} before you start"
            )
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
    if run.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(files.absolute(run.compilation_cache)))
    elif not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(files.absolute(workdir) / "compiled"))


@contextlib.contextmanager
def keeping_no_programs() -> Iterator[None]:
    """Programs compiled inside this context do not enter the persistent compilation cache."""
    field = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, field)
    jax.config.update(field, math.inf)
    try:
        yield
    finally:
        jax.config.update(field, before)


def devices() -> list[jax.Device]:
    """All devices of all processes, process by process. Raises UserError if JAX cannot open them."""
    try:
        return sorted(jax.devices(), key=lambda device: device.process_index)
    except (RuntimeError, AssertionError) as error:  # AssertionError if a GPU's plugin is missing
        reason = " ".join(str(error).split()) or "no such platform is installed"
        raise UserError(
            f"JAX cannot open its devices ({reason[:300]}). Another process may use them, or the driver is older than "
            f"JAX: end that process, install the JAX version for this driver, or set JAX_PLATFORMS=cpu"
        ) from None


@contextlib.contextmanager
def fitting(remedy: str) -> Iterator[None]:
    """Turns the error of devices with too little memory into a UserError with `remedy`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).removeprefix("RESOURCE_EXHAUSTED: ").splitlines()[0][:200]
        raise UserError(
            f"the devices have too little memory ({reason}); {remedy}. python -m arada.doctor shows what fits"
        ) from None


def drop_programs() -> None:
    """Frees the compiled programs of runs that are done: one process may then train any number of runs.

    Every program is mapped memory. Linux aborts a process with more than 65,530 maps (vm.max_map_count), which about 70
    small runs would reach.
    """
    jax.clear_caches()
    gc.collect()


def _in_use() -> bool:
    """Whether JAX has opened its devices; if so, it refuses to change their number."""
    before = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    try:
        jax.config.update("jax_num_cpu_devices", max(before, 0) + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", before)
    return False
