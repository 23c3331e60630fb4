"""The origin of a result: the commit, the hardware and the versions."""

import importlib.metadata
import pathlib
import subprocess
from typing import Any

import jax

PACKAGES = ("arada", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


def commit() -> str:
    """The commit of a checkout, with a plus if files differ from it; "unknown" for an installed package.

    Ignores changes in docs/, which affect no result and hold the results of studies.
    """
    here = pathlib.Path(__file__)

    def git(*args: str) -> str:
        command = ["git", "-C", str(here.parent), *args]
        return subprocess.run(command, capture_output=True, check=True).stdout.decode(errors="replace").strip()

    try:
        # An installed package may lie inside somebody else's checkout.
        git("ls-files", "--error-unmatch", here.name)
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--", ":/", ":(top,exclude)docs") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def made_with() -> dict[str, Any]:
    """The record that is stored with every result. `precision` is for float32 matrix products and convolutions, because
    JAX's default differs by platform (TF32 on a GPU, bfloat16 on a TPU)."""
    return {
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "precision": {
            "training": jax.config.jax_default_matmul_precision or f"default of {jax.default_backend()}",  # type: ignore[attr-defined]
            "elsewhere": "float32",
        },
    }


def hardware() -> str:
    """The devices that JAX sees, such as "TPU v4 x 8"."""
    return f"{jax.devices()[0].device_kind} x {jax.device_count()}"


def versions() -> dict[str, str]:
    """The versions of the packages that numbers depend on."""
    return {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "source"
