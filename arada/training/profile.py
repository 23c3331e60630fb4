"""A trace of a few train steps, for TensorBoard's profiler or Perfetto."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator

import jax
from etils import epath

from arada.runtime import hosts

logger = logging.getLogger(__name__)

# Calls before the trace: the first compiles, and in the second the devices may still be catching up.
_BEFORE = 2


@contextlib.contextmanager
def traced(step: Callable, steps: int, directory: epath.Path) -> Iterator[Callable]:
    """`step`, with `steps` calls traced by `jax.profiler` into `directory`; only in the first process."""
    if not steps or not hosts.is_first():
        yield step
        return
    calls, tracing = itertools.count(), False

    def stop():
        nonlocal tracing
        jax.profiler.stop_trace()
        tracing = False
        logger.info("traced up to %d steps into %s", steps, directory)

    def call(*args):
        nonlocal tracing
        number = next(calls)
        if number == _BEFORE:
            jax.profiler.start_trace(str(directory))
            tracing = True
        outputs = step(*args)
        if number == _BEFORE + steps - 1:
            jax.block_until_ready(outputs)
            stop()
        return outputs

    try:
        yield call
    finally:
        if tracing:  # the run is shorter, or has failed
            stop()
