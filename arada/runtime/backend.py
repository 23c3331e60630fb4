"""JAX's devices: its settings before it opens them, and clear errors if they fail."""

import contextlib
import gc
import logging
import os
from collections.abc import Iterator

import jax
import ml_collections
from etils import epath

from arada.errors import UserError
from arada.runtime import files

logger = logging.getLogger(__name__)

# Leaves out kernels that are not deterministic, and fails if an operation has no other.
# `xla_gpu_deterministic_ops` would also switch autotuning off. Autotuning may choose another kernel in each
# process, unless it finds the compiled program; the workdir keeps compiled programs.
DETERMINISTIC = "--xla_gpu_exclude_nondeterministic_ops=true"


def configure(run: ml_collections.ConfigDict, workdir: epath.PathLike) -> None:
    """Applies `config.run` to JAX. Raises UserError if it is too late.

    Runs are in float32, whatever JAX_ENABLE_X64 says: it would change random numbers, and is not part of a run's
    identity.
    """
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        logger.warning("JAX_ENABLE_X64 is set; it is switched off, because runs are in float32")
        jax.config.update("jax_enable_x64", False)
    if run.deterministic and DETERMINISTIC not in os.environ.get("XLA_FLAGS", "").split():
        if _in_use():
            raise UserError(
                f"run.deterministic is True, but JAX is in use already; set XLA_FLAGS={DETERMINISTIC} before"
            )
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
    if run.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(files.absolute(run.compilation_cache)))
    elif not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(files.absolute(workdir) / "compiled"))


def devices() -> list[jax.Device]:
    """All devices of all processes; the devices of one process are neighbours. Raises UserError if JAX cannot open
    them.
    """
    try:
        return sorted(jax.devices(), key=lambda device: device.process_index)
    except (RuntimeError, AssertionError) as error:  # AssertionError without a GPU's plugin
        reason = " ".join(str(error).split()) or "no such platform is installed"
        raise UserError(
            f"JAX cannot open its devices ({reason[:300]}). Another process may hold them, or the driver is older than "
            f"JAX: end that process, install the JAX for this driver, or set JAX_PLATFORMS=cpu"
        ) from None


@contextlib.contextmanager
def fitting(remedy: str) -> Iterator[None]:
    """Programs that find too little memory on the devices raise UserError with `remedy`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).removeprefix("RESOURCE_EXHAUSTED: ").splitlines()[0][:200]
        raise UserError(
            f"the devices have too little memory ({reason}); {remedy}. python -m arada.doctor says what fits"
        ) from None


def drop_programs() -> None:
    """Frees the compiled programs of runs that are done: one process may then train any number of runs.

    Every program is mapped memory. Linux aborts a process with more than 65,530 maps (vm.max_map_count), which about 70
    small runs would reach.
    """
    jax.clear_caches()
    gc.collect()


def _in_use() -> bool:
    """Whether JAX has opened its devices: from then on it refuses to change their number."""
    before = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    try:
        jax.config.update("jax_num_cpu_devices", max(before, 0) + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", before)
    return False
