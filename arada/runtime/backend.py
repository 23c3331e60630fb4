"""What JAX is told before it opens its devices: kernels of the same bits, and where compiled programs are kept."""

import os

import jax
import ml_collections

# JAX has no public way to ask.
from jax._src.xla_bridge import backends_are_initialized

from arada.errors import UserError
from arada.runtime import files

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def configure(run: ml_collections.ConfigDict) -> None:
    """Does what `config.run` says of it. Raises UserError if it is too late."""
    if run.deterministic and DETERMINISTIC not in os.environ.get("XLA_FLAGS", "").split():
        if backends_are_initialized():
            raise UserError(
                f"run.deterministic is True, but JAX is in use already; set XLA_FLAGS={DETERMINISTIC} before"
            )
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}".strip()
    if run.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(files.absolute(run.compilation_cache)))
