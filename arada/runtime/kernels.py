"""Which kernels convolutions have on a CPU: XLA's, or oneDNN's where they have been tried.

oneDNN's (`arada.models.onednn`) are reached by undocumented calls, which in another jaxlib or on another processor may
be wrong or abort the process. So a process of its own tries them first, once for each processor and version; what it
found is remembered in ~/.cache/arada (or $XDG_CACHE_HOME/arada).

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
ASKED = ("auto", *cpu.KERNELS)
# jaxlib versions that tests have met; oneDNN's calls are not part of its interface.
TRIED = ("0.10.2",)
_LONGEST_TRIAL = 300
# Codes of a trial that would end alike another time; not those of a kill, or of too little memory.
_DIFFERS = 3
_LASTING = (_DIFFERS, -signal.SIGABRT, -signal.SIGSEGV, -signal.SIGILL, -signal.SIGFPE)
# Rounding moves values and gradients of the trial by a tenth of this, relative to the largest.
_TOLERANCE = 1e-5
# Batch, size of the map, channels in and out, size of the kernel, stride: one of each way through `arada.models.cpu`.
_TRIAL = ((9, 8, 3, 16, 3, 1), (24, 9, 16, 32, 3, 1), (16, 8, 8, 16, 3, 2), (16, 8, 64, 16, 1, 1), (9, 7, 16, 8, 1, 2))


def choose(config: ml_collections.ConfigDict, devices: Sequence[jax.Device]) -> str:
    """One of `arada.models.cpu.KERNELS` for what is trained or ranked on `devices`, said in one log line.

    Raises UserError if `run.cpu_kernels` asks for what cannot be had here.
    """
    asked = config.run.cpu_kernels
    if asked == "stock" or (asked == "auto" and devices[0].platform != "cpu"):
        return "stock"
    reason = _unfit(config, devices) or _failed_trial()
    if not reason:
        logger.info("run.cpu_kernels=%s: convolutions by oneDNN, whose programs every process compiles anew", asked)
        return "onednn"
    if asked == "onednn":
        raise UserError(f"run.cpu_kernels is 'onednn', but {reason}; set it to 'auto' or 'stock'")
    logger.info("run.cpu_kernels=auto: convolutions by XLA, because %s", reason)
    return "stock"


def _unfit(config: ml_collections.ConfigDict, devices: Sequence[jax.Device]) -> str:
    """Why oneDNN is not even tried, or ""."""
    dtype = config.model.get("dtype", "float32")
    if devices[0].platform != "cpu":
        return f"the devices are of {devices[0].platform}"
    if len(devices) > 1 or jax.process_count() > 1:
        return f"there are {len(devices)} devices, which would share oneDNN's threads"
    if dtype != "float32":
        return f"model.dtype is {dtype!r}, and oneDNN is used in float32 only"
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return f"oneDNN is in jaxlib for Linux on x86-64 only, and this is {sys.platform} on {platform.machine()}"
    if jaxlib.__version__ not in TRIED:
        return f"jaxlib {jaxlib.__version__} has not been tried with it, only {', '.join(TRIED)}"
    return ""


@functools.cache
def _failed_trial() -> str:
    """What the trial found wrong, or ""; remembered for this processor, this jaxlib and this code."""
    remembered = _remembered()
    with contextlib.suppress(UserError, KeyError, TypeError):
        return str(files.read_json(remembered)["failed"])
    failed, lasting = _try_in_subprocess()
    if lasting:
        try:
            files.write_json(remembered, {"failed": failed})
        except UserError as error:
            logger.info("the trial of oneDNN is repeated the next time: %s", error)
    return failed


def _remembered() -> epath.Path:
    about = pathlib.Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    processor = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    sources = [pathlib.Path(path).read_bytes() for path in (__file__, cpu.__file__, onednn.__file__)]
    key = hashlib.sha256(b"\n".join([repr((jaxlib.__version__, processor)).encode(), *sources])).hexdigest()[:16]
    folder = epath.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return folder / "arada" / f"onednn_{key}.json"


def _try_in_subprocess() -> tuple[str, bool]:
    """What the trial found wrong, or "", and whether it would find the same again."""
    logger.info("trying oneDNN's kernels in a process of their own, once on this machine")
    root = str(pathlib.Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0", "PYTHONPATH": path}
    command = [sys.executable, "-P", "-m", "arada.runtime.kernels"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_LONGEST_TRIAL, check=False)
    except subprocess.TimeoutExpired:
        return f"its trial took longer than {_LONGEST_TRIAL} s", False
    except OSError as error:
        return f"its trial could not be started ({error})", False
    if done.returncode == 0:
        return "", True
    said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
    return f"its trial ended with code {done.returncode} and said {said[-1][:200]!r}", done.returncode in _LASTING


def trial() -> None:
    """Compares values and gradients with XLA's; ends the process if they differ."""

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
            # A new function each time, for JAX keeps what it has traced.
            results[name] = jax.tree.leaves(jax.jit(lambda cases: list(found(cases)))([arrays(*of) for of in _TRIAL]))
    for ours, theirs in zip(results["onednn"], results["stock"], strict=True):
        if not jnp.abs(ours - theirs).max() <= _TOLERANCE * jnp.abs(theirs).max():
            print(f"oneDNN differs from XLA in a result of shape {ours.shape}", file=sys.stderr)
            sys.exit(_DIFFERS)


if __name__ == "__main__":
    trial()
