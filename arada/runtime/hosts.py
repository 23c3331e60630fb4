"""Several processes as one program: how they connect, which one writes, and where they wait for one another.

Every process runs the same command on its own devices (`jax.distributed`). With one process these functions do nothing.
"""

import contextlib
import importlib.util
import logging
import os
import socket
import time
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from arada.errors import UserError

logger = logging.getLogger(__name__)


def connect(
    coordinator_address: str = "", num_processes: int = 0, process_id: int = -1, timeout_seconds: int = 300
) -> None:
    """Connects to the other processes, given by the arguments or by Cloud TPU or Slurm, before JAX is used.

    Without arguments and outside of both, or with `num_processes=1`, the process runs alone. Raises UserError if it
    cannot reach the first process. If another process does not come, XLA ends all after the same time.
    """
    given = bool(coordinator_address), num_processes != 0, process_id != -1
    slurm, tpu = _tasks_of_slurm() > 1, importlib.util.find_spec("libtpu") is not None
    if num_processes == 1 or not (any(given) or slurm or tpu):
        return
    if any(given) and not all(given):
        raise UserError(
            f"--coordinator_address is {coordinator_address!r}, --num_processes {num_processes} and --process_id "
            f"{process_id}; give all three, or none on Cloud TPU and Slurm"
        )
    # For processes on CPUs; other devices have their own collectives.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if not all(given):
        try:
            jax.distributed.initialize(
                cluster_detection_method="slurm" if slurm else None,
                local_device_ids=_devices_of_task() if slurm else None,
            )
        except (ValueError, RuntimeError) as error:
            # libtpu may be installed without a Cloud TPU.
            if slurm or not isinstance(error, ValueError):
                raise UserError(
                    f"the processes did not connect ({str(error).splitlines()[0]}); give --coordinator_address, "
                    f"--num_processes and --process_id, or --num_processes=1 to run one process alone"
                ) from None
        return
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process_id is {process_id}; it must be in 0..{num_processes - 1}, below --num_processes")
    _check_address(coordinator_address, process_id, timeout_seconds)
    logger.info("process %d of %d: connecting to %s", process_id, num_processes, coordinator_address)
    jax.distributed.initialize(
        coordinator_address,
        num_processes,
        process_id,
        cluster_detection_method="deactivate",
        initialization_timeout=timeout_seconds,
    )


def _tasks_of_slurm() -> int:
    """The number of tasks of this process' `srun`; 1 otherwise, also in a batch script."""
    return int(os.environ["SLURM_NTASKS"]) if {"SLURM_NTASKS", "SLURM_STEP_NODELIST"} <= os.environ.keys() else 1


def _devices_of_task() -> list[int] | None:
    """The task's GPUs among its visible ones; None lets JAX choose by the task's number on the node.

    With --gpus-per-task a task sees only its own GPUs, numbered from 0, and JAX would choose one that does not exist
    (jax#28194).
    """
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    only_own = "SLURM_GPUS_PER_TASK" in os.environ or int(os.environ.get("SLURM_LOCALID", "0")) >= len(visible)
    return list(range(len(visible))) if visible and only_own else None


def _check_address(address: str, process_id: int, timeout_seconds: float) -> None:
    # Without this check XLA aborts the process.
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        raise UserError(f"--coordinator_address is {address!r}; it must be HOST:PORT of process 0, on a free port")
    if process_id == 0:
        try:
            socket.create_server(("", int(port))).close()
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--coordinator_address is {address}, but process 0 cannot listen there ({error}); choose another port"
            ) from None
        return
    give_up = time.monotonic() + timeout_seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > give_up:
                raise UserError(
                    f"process {process_id} cannot reach process 0 at --coordinator_address={address} ({error}); check "
                    f"that it is running, and that other hosts can reach it at this address"
                ) from None
        time.sleep(0.2)


def is_first() -> bool:
    """Whether this process writes shared files and messages."""
    # With one process this does not ask JAX, which would open its devices.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def several() -> bool:
    """Whether there are other processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def wait(where: str) -> None:
    """Returns when all processes have called it. Use it before reading files of the first process."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


@contextlib.contextmanager
def first_before_others(where: str) -> Iterator[None]:
    """Runs the body in the first process, then in the others, which find the first one's files."""
    if not is_first():
        wait(where)
    try:
        yield
    finally:  # also after an error, which every process raises
        if is_first():
            wait(where)


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Raises a UserError of one process in all, so that none waits for a process that has ended."""
    if jax.process_count() == 1:
        yield
        return
    error = None
    try:
        yield
    except UserError as caught:
        error = caught
    failed = multihost_utils.process_allgather(np.bool_(error is not None))
    if error:
        raise error
    if failed.any():
        raise UserError(f"process {int(np.argmax(failed))} has stopped; see its log for the reason")


def alike(value: Any) -> bool:
    """Whether the value, as text, is the same in all processes."""
    digests = multihost_utils.process_allgather(np.uint32(zlib.crc32(str(value).encode("utf-8", "backslashreplace"))))
    return len(np.unique(digests)) == 1


def check_alike(workdir: epath.Path, config: Any) -> None:
    """Raises UserError in all processes unless they have the same config and workdir."""
    if jax.process_count() == 1:
        return
    if not alike(config):
        raise UserError("the processes have different configs; start all of them with the same command")
    now = int(multihost_utils.broadcast_one_to_all(np.uint32(time.time_ns() % 2**32)))
    mark = workdir / f".seen_by_all_{now}"
    if is_first():
        mark.write_text("")
    wait("the mark exists")
    sees = multihost_utils.process_allgather(np.bool_(mark.exists()))
    if is_first():
        mark.unlink()
    if not sees.all():
        raise UserError(
            f"--workdir={workdir} is another folder in process {int(np.argmin(sees))} than in process 0; choose a "
            "folder on storage that all processes share"
        )
