"""The kernels of convolutions on a CPU: XLA's, or oneDNN's after a trial.

Calls of oneDNN (`arada.models.onednn`) are undocumented: with another jaxlib or processor they may be wrong or abort
the process. Therefore a process of its own tries them first, once for each processor, jaxlib and version of this code.
Its outcome is kept in ~/.cache/arada (or $XDG_CACHE_HOME/arada).

    python -m arada.runtime.kernels     # that trial
"""

import contextlib
import functools
import hashlib
import logging
import math
import os
import pathlib
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jaxlib
import ml_collections
import numpy as np
from etils import epath

from arada.errors import UserError
from arada.models import cpu, onednn
from arada.runtime import files

logger = logging.getLogger(__name__)

# The values of `config.run.cpu_kernels`.
CHOICES = ("auto", *cpu.KERNELS)
# The versions of jaxlib with which the tests have passed.
TRIED = ("0.10.2", "0.12.0.1")
_LONGEST_TRIAL = 300
# Exit codes of a trial that would fail again; a kill or too little memory may have other outcomes the next time.
_DIFFERS = 3
_REPEATABLE = (_DIFFERS, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGILL, -signal.SIGFPE)
# Relative to the largest value; rounding alone is a tenth of it.
_TOLERANCE = 1e-5
# Batch, map, channels in and out, kernel, stride: a case for each branch of `arada.models.cpu` with oneDNN.
_TRIAL = ((9, 8, 3, 16, 3, 1), (24, 9, 16, 32, 3, 1), (16, 8, 8, 16, 3, 2), (16, 8, 64, 16, 1, 1), (9, 7, 16, 8, 1, 2))


def choose(config: ml_collections.ConfigDict, devices: Sequence[jax.Device]) -> str:
    """One of `arada.models.cpu.KERNELS`, for training and attacks on `devices`; one log line tells the choice on a CPU.

    Raises UserError if `run.cpu_kernels` is "onednn" and it is not available.
    """
    asked = config.run.cpu_kernels
    if asked == "stock" or (asked == "auto" and devices[0].platform != "cpu"):
        return "stock"
    reason = _obstacle(config, devices) or _failed_trial()
    if not reason:
        logger.info("run.cpu_kernels=%s: convolutions by oneDNN; each process compiles these programs again", asked)
        return "onednn"
    if asked == "onednn":
        raise UserError(f"run.cpu_kernels is 'onednn', but {reason}; set it to 'auto' or 'stock'")
    logger.info("run.cpu_kernels=auto: convolutions by XLA, because %s", reason)
    return "stock"


def _obstacle(config: ml_collections.ConfigDict, devices: Sequence[jax.Device]) -> str:
    """Why oneDNN is not even tried; "" if it is."""
    dtype = config.model.get("dtype", "float32")
    if devices[0].platform != "cpu":
        return f"the platform is {devices[0].platform}, not a CPU"
    if len(devices) > 1 or jax.process_count() > 1:
        return f"there are {len(devices)} devices, and oneDNN runs on one device of one process only"
    if dtype != "float32":
        return f"model.dtype is {dtype!r}, and oneDNN computes in float32 only"
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return f"jaxlib contains oneDNN only for Linux on x86-64, and this is {sys.platform} on {platform.machine()}"
    if jaxlib.__version__ not in TRIED:
        return f"jaxlib is {jaxlib.__version__}, and oneDNN was tried with {', '.join(TRIED)}"
    return ""


@functools.cache
def _failed_trial() -> str:
    """What is wrong with oneDNN, from the stored outcome or from a trial; "" for nothing."""
    stored = _outcome_file()
    with contextlib.suppress(UserError, KeyError, TypeError):
        return str(files.read_json(stored)["failed"])
    failed, repeatable = _try_in_subprocess()
    if repeatable:
        try:
            files.write_json(stored, {"failed": failed})
        except UserError as error:
            logger.info("the trial of oneDNN will be repeated next time: %s", error)
    return failed


def _outcome_file() -> epath.Path:
    about = pathlib.Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    processor = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    sources = [pathlib.Path(path).read_bytes() for path in (__file__, cpu.__file__, onednn.__file__)]
    key = hashlib.sha256(b"\n".join([repr((jaxlib.__version__, processor)).encode(), *sources])).hexdigest()[:16]
    folder = epath.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return folder / "arada" / f"onednn_{key}.json"


def _try_in_subprocess() -> tuple[str, bool]:
    """What is wrong with oneDNN ("" for nothing), and whether another trial would find the same."""
    logger.info("comparing oneDNN with XLA in a process of its own, once on this machine")
    root = str(pathlib.Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0", "PYTHONPATH": path}
    command = [sys.executable, "-P", "-m", "arada.runtime.kernels"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_LONGEST_TRIAL, check=False)
    except subprocess.TimeoutExpired:
        return f"its trial took longer than {_LONGEST_TRIAL} s", False
    except OSError as error:
        return f"its trial could not start ({error})", False
    if done.returncode == 0:
        return "", True
    lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
    return f"its trial ended with code {done.returncode} ({lines[-1][:200]})", done.returncode in _REPEATABLE


def trial() -> None:
    """Compares values and gradients of oneDNN and XLA; exits with code 3 if they differ."""

    def waves(*shape):
        return np.sin(np.arange(math.prod(shape), dtype=np.float32)).reshape(shape)

    def arrays(batch, size, channels, features, extent, stride):
        y = batch, -(-size // stride), -(-size // stride), features
        return waves(batch, size, size, channels), waves(extent, extent, channels, features), waves(*y)

    def found(cases):
        for (x, kernel, cotangent), (*_, stride) in zip(cases, _TRIAL, strict=True):
            y, backward = jax.vjp(functools.partial(cpu.convolution, strides=(stride, stride)), x, kernel)
            yield y, *backward(cotangent)

    results = {}
    for name in cpu.KERNELS:
        with cpu.kernels(name):
            # A new function each time: JAX caches traces by function.
            results[name] = jax.tree.leaves(jax.jit(lambda cases: list(found(cases)))([arrays(*of) for of in _TRIAL]))
    for ours, theirs in zip(results["onednn"], results["stock"], strict=True):
        if not jnp.abs(ours - theirs).max() <= _TOLERANCE * jnp.abs(theirs).max():
            print(f"oneDNN differs from XLA in a result of shape {ours.shape}", file=sys.stderr)
            sys.exit(_DIFFERS)


if __name__ == "__main__":
    trial()
