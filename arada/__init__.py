"""Calibrated image classifiers through adversarial robustness (AR-AdaLS), in JAX.

The parts to import: `arada.soft_labels`, `arada.attacks`, `arada.metrics`, `arada.load` and `arada.export`.
"""

import sys
from typing import Any

__version__ = "0.1.0"

# `python -m arada.X`, before X: JAX reads its JAX_* variables when it is imported, and a wrong one ends in a traceback.
if sys.argv[:1] == ["-m"]:
    try:
        import jax  # noqa: F401
    except ValueError as error:
        sys.exit(f"error: JAX refuses an environment variable: {error}; correct it or unset it")


def __getattr__(name: str) -> Any:
    # Late: the parts above must not pull in the experiment's machinery.
    if name == "load":
        from arada.runs.trained import load

        return load
    if name == "export":
        from arada.evaluation.exported import export

        return export
    raise AttributeError(f"module 'arada' has no attribute {name!r}")
