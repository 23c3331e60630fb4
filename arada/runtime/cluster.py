"""Tasks as jobs of a cluster, through submitit: submits one array of jobs at a time and waits for its end."""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from arada.errors import UserError
from arada.runtime import console, files

logger = logging.getLogger(__name__)

# Runs function(task, workdir) for every task and returns when all are done.
Submit = Callable[[Callable[[Any, str], None], Sequence[Any]], None]


def submitter(cluster: str, workdir: epath.PathLike, folder: str, parameters: Mapping[str, Any]) -> Submit:
    """Runs tasks as jobs of `cluster` ("slurm" or "local"), with logs in WORKDIR/`folder`/jobs.

    `parameters` are submitit's, such as slurm_partition. Raises UserError.
    """
    try:
        import submitit
    except ImportError:
        raise UserError("--cluster needs submitit: pip install submitit") from None
    jobs_folder = str(files.absolute(workdir) / folder / "jobs")
    if "://" in jobs_folder:
        raise UserError(f"--workdir={workdir}: submitit needs a folder on a file system that all nodes share")
    try:
        executor = submitit.AutoExecutor(folder=jobs_folder, cluster=cluster)
        executor.update_parameters(**parameters)
    except (NameError, TypeError, RuntimeError) as error:
        raise UserError(f"--cluster={cluster}: {error}; check it and the --job flags") from None

    def submit(function: Callable[[Any, str], None], tasks: Sequence[Any]) -> None:
        jobs = executor.map_array(functools.partial(run_job, function), tasks, [str(workdir)] * len(tasks))
        logger.info("submitted %d jobs, the first is %s; logs in %s", len(jobs), jobs[0].job_id, executor.folder)
        failed = [job.job_id for job in jobs if job.exception()]
        if failed:
            raise UserError(f"jobs {', '.join(failed)} failed: see {executor.folder}; the same command continues")

    return submit


def run_job(function: Callable[[Any, str], None], task: Any, workdir: str) -> None:
    """Runs a task in its own process, with its own log."""
    console.start_logging()
    function(task, workdir)


def parameters(assignments: Sequence[str], value: Callable[[str], Any]) -> dict[str, Any]:
    """The flags --job=NAME=VALUE as a dict."""
    return {name: value(text) for name, _, text in (assignment.partition("=") for assignment in assignments)}
