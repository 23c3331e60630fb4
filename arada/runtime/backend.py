"""What JAX is told before it opens its devices: kernels of the same bits, and where compiled programs are kept."""

import logging
import os

import jax
import ml_collections

# JAX has no public way to ask.
from jax._src.xla_bridge import backends_are_initialized

from arada.errors import UserError
from arada.runtime import files

logger = logging.getLogger(__name__)

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def configure(run: ml_collections.ConfigDict) -> None:
    """Does what `config.run` says of it. Raises UserError if it is too late.

    Runs are in float32, whatever JAX_ENABLE_X64 says: it would draw other numbers, and no run's identity tells of it.
    """
    if jax.config.jax_enable_x64:
        logger.warning("JAX_ENABLE_X64 is set; it is switched off, for runs are in float32")
        jax.config.update("jax_enable_x64", False)
    if run.deterministic and DETERMINISTIC not in os.environ.get("XLA_FLAGS", "").split():
        if backends_are_initialized():
            raise UserError(
                f"run.deterministic is True, but JAX is in use already; set XLA_FLAGS={DETERMINISTIC} before"
            )
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
    if run.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(files.absolute(run.compilation_cache)))
