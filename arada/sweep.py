"""One method over a grid of settings, and the choice by validation calibration.

    python -m arada.sweep --config=configs/cifar10.py:label_smoothing --workdir=DIR --grid=label_smoothing
    python -m arada.sweep --config=configs/digits.py:ar_adals --workdir=DIR --grid="alpha=0.05,0.1 attack=fmn,sdf"

Trains and predicts what the workdir lacks, every point with the config's seeds; vanilla runs and rankings are those of
the workdir. Writes DIR/sweeps/METHOD-FIELDS.json and .md. `--cluster=slurm` makes every point a task of one Slurm array
through submitit, `--cluster=local` a process of this machine; the points done are found again by the same command.
"""

import itertools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from arada import console, files, provenance
from arada import workdir as workdirs
from arada.errors import UserError
from arada.evaluation import summary
from arada.experiment import Experiment
from arada.workdir import Workdir

logger = logging.getLogger(__name__)

Grid = Mapping[str, Sequence[Any]]

# The paper's, by section: A.1 to A.3, and Figure 5, whose own points are not known.
GRIDS: dict[str, Grid] = {
    "label_smoothing": {"epsilon": tuple(round(0.01 * i, 2) for i in range(11))},
    "adals": {"alpha": (0.005, 0.01, 0.05, 0.1)},
    "adals_imagenet": {"alpha": (0.005, 0.01, 0.03, 0.05, 0.1)},
    "ar_adals": {"alpha": (0.005, 0.01, 0.05)},
    "figure_5": {"num_subsets": (1, 2, 4, 6, 8, 10, 12, 14, 16)},
}
# Short names of fields; any other field of the config is written in full.
FIELDS = {
    "epsilon": "soft_labels.epsilon",
    "alpha": "soft_labels.alpha",
    "num_subsets": "soft_labels.num_subsets",
    "attack": "ranking.attack",
}


def parse_grid(text: str) -> Grid:
    """A name of `GRIDS`, or "field=value,value field=value ..."; raises UserError for anything else."""
    if text in GRIDS:
        return GRIDS[text]
    pairs = [part.partition("=") for part in text.split()]
    if not pairs or any(not field or "" in values.split(",") for field, _, values in pairs):
        raise UserError(f"--grid is one of {', '.join(GRIDS)}, or like 'alpha=0.05,0.1 attack=fmn'; not {text!r}")
    return {field: tuple(_value(value) for value in values.split(",")) for field, _, values in pairs}


def _value(text: str) -> Any:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return text


def points(config: ml_collections.ConfigDict, grid: Grid) -> dict[str, ml_collections.ConfigDict]:
    """The config of every point by the name of its runs, METHOD/FIELD_VALUE-FIELD_VALUE. Raises UserError."""
    found = {}
    for values in itertools.product(*grid.values()):
        point = ml_collections.ConfigDict(config.to_dict()).lock()
        for field, value in zip(grid, values, strict=True):
            _set(point, field, value)
        point.name = f"{config.name}/" + "-".join(f"{field}_{value}" for field, value in zip(grid, values, strict=True))
        found[point.name] = point
    return found


def _set(config: ml_collections.ConfigDict, field: str, value: Any) -> None:
    if field == "attack":
        # Rankings by several attacks lie side by side.
        config.ranking.folder = str(value)
    path, node = FIELDS.get(field, field), config
    for key in path.split("."):
        if not (isinstance(node, ml_collections.ConfigDict) and key in node):
            raise UserError(f"--grid: the config has no field {path!r}; short names are {', '.join(FIELDS)}")
        node = node[key]
    try:
        config.update_from_flattened_dict({path: ((0, float(value)),) if field == "alpha" else value})
    except (TypeError, ValueError) as error:
        raise UserError(f"--grid: {field}={value} does not fit the config: {error}") from None


def run_point(config: Mapping[str, Any], workdir: str) -> None:
    """Ranks if need be, trains and predicts at one point, given as a plain dict: the task of a job."""
    experiment = Experiment(ml_collections.ConfigDict(config, convert_dict=True), workdir, of_sweep=True)
    if workdirs.uses_precomputed(experiment.config):
        experiment.rank()
    experiment.train()
    experiment.predict()


def run(
    config: ml_collections.ConfigDict, workdir: str, grid: Grid, submit: Callable[[list[dict]], None] | None = None
) -> dict[str, Any]:
    """Runs what is missing of every point, here or through `submit`, and returns what `compare` finds."""
    configs = points(config, grid)
    # All of them first: a mistake in the last point costs nothing.
    experiments = [Experiment(point, workdir, of_sweep=True) for point in configs.values()]
    ranked = [experiment for experiment in experiments if workdirs.uses_precomputed(experiment.config)]
    if ranked:
        ranked[0].vanilla()
    # One ranking for each attack, before tasks that would all make it.
    for experiment in {experiment.config.ranking.folder: experiment for experiment in ranked}.values():
        experiment.rank()
    tasks = [point.to_dict() for point in configs.values()]
    if submit:
        submit(tasks)
    else:
        for number, (name, task) in enumerate(zip(configs, tasks, strict=True), start=1):
            logger.info("%s: point %d of %d", name, number, len(tasks))
            run_point(task, workdir)
    return compare(config, workdir, grid)


def compare(config: ml_collections.ConfigDict, workdir: str, grid: Grid) -> dict[str, Any]:
    """Every point's metrics by seed, and the point of the lowest mean validation ECE."""
    names = points(config, grid)
    runs = [(name, seed) for name in names for seed in config.seeds]
    methods = summary.summarize(Workdir(workdir), config, runs=runs)["methods"]
    measured = []
    for name, values in zip(names, itertools.product(*grid.values()), strict=True):
        of_seeds = list(methods[name]["runs"].values())
        shifted = [[one["ece"] for of_type in of["shift"].values() for one in of_type] for of in of_seeds]
        measured.append(
            {
                "name": name,
                "values": dict(zip(grid, values, strict=True)),
                "validation_ece": [of["validation"]["ece"] for of in of_seeds],
                "accuracy": [of["test"]["accuracy"] for of in of_seeds],
                "ece": [of["test"]["ece"] for of in of_seeds],
                "ece_under_shift": [float(np.mean(of)) if of else None for of in shifted],
            }
        )
    chosen = min(measured, key=lambda point: np.mean(point["validation_ece"]))
    return {
        "method": config.name,
        "seeds": list(config.seeds),
        "num_bins": config.evaluation.num_bins,
        "points": measured,
        "chosen": chosen["name"],
        "commit": provenance.commit(),
        "hardware": provenance.hardware(),
    }


def table(found: Mapping[str, Any]) -> str:
    """The points as a Markdown table, in percent."""
    columns = {"validation_ece": "validation ECE", "accuracy": "accuracy", "ece": "ECE", "ece_under_shift": "shift ECE"}
    fields = list(found["points"][0]["values"])
    lines = ["| " + " | ".join([*fields, *columns.values()]) + " |", "|---" * (len(fields) + len(columns)) + "|"]
    for point in found["points"]:
        cells = [str(value) for value in point["values"].values()]
        for column in columns:
            values = [100 * value for value in point[column] if value is not None]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.2f}{spread}" if values else "not run")
        if point["name"] == found["chosen"]:
            cells = [f"**{cell}**" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    note = f"x100; {found['method']}, seeds {found['seeds']}; bold: lowest validation ECE of {found['num_bins']} bins."
    return "\n".join([*lines, "", note, ""])


def on_cluster(cluster: str, workdir: str, parameters: Mapping[str, Any]) -> Callable[[list[dict]], None]:
    """Runs tasks as jobs and waits for them; `parameters` are submitit's, such as slurm_partition. Raises UserError."""
    try:
        import submitit
    except ImportError:
        raise UserError("--cluster needs submitit: pip install submitit") from None
    try:
        executor = submitit.AutoExecutor(folder=str(Workdir(workdir).path / "sweeps" / "jobs"), cluster=cluster)
        executor.update_parameters(**parameters)
    except (NameError, TypeError, RuntimeError) as error:
        raise UserError(f"--cluster={cluster}: {error}") from None

    def submit(tasks: list[dict]) -> None:
        jobs = executor.map_array(run_point, tasks, [workdir] * len(tasks))
        logger.info("submitted %d jobs, the first is %s; logs in %s", len(jobs), jobs[0].job_id, executor.folder)
        failed = [job.job_id for job in jobs if job.exception()]
        if failed:
            raise UserError(f"jobs {', '.join(failed)} failed: see {executor.folder}; the same command goes on")

    return submit


_CONFIG = config_flags.DEFINE_config_file("config", None, "Path of a config file, with presets.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the experiment; what is there is not made again.")
_GRID = flags.DEFINE_string("grid", None, f"One of {', '.join(GRIDS)}, or 'field=value,value field=value'.")
_CLUSTER = flags.DEFINE_enum("cluster", "", ("", "slurm", "local"), "Where points run; empty: here, one by one.")
_JOB = flags.DEFINE_multi_string("job", [], "A parameter of submitit, such as --job=timeout_min=600.")


def main(_) -> None:
    """Runs the grid, prints its table and writes it."""
    console.start_logging()
    try:
        grid, config, workdir = parse_grid(_GRID.value), _CONFIG.value, _WORKDIR.value
        parameters = {name: _value(value) for name, _, value in (job.partition("=") for job in _JOB.value)}
        submit = on_cluster(_CLUSTER.value, workdir, parameters) if _CLUSTER.value else None
        found = run(config, workdir, grid, submit)
        file = Workdir(workdir).path / "sweeps" / f"{config.name}-{'-'.join(grid)}"
        files.write_json(file.with_suffix(".json"), found)
        files.write_bytes(file.with_suffix(".md"), table(found).encode())
    except UserError as error:
        sys.exit(f"error: {error}")
    print(table(found))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir", "grid"])
    app.run(main, flags_parser=console.config_parser(_CONFIG))
