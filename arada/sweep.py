"""One method over a grid of settings, and the choice by a metric of the validation set (`evaluation.choose_by`).

    python -m arada.sweep --config=configs/cifar10.py:label_smoothing --workdir=DIR --grid=label_smoothing
    python -m arada.sweep --config=configs/digits.py:ar_adals --workdir=DIR --grid="alpha=0.05,0.1 attack=fmn,sdf"

Trains and predicts what the workdir lacks, every point with the config's seeds (or with `seeds=0,1,2` of the grid);
vanilla runs and rankings are shared with the workdir. Writes DIR/sweeps/METHOD-FIELDS.json and .md. `--cluster=slurm`
makes every point and seed a task of one Slurm array through submitit, after one job for what they have in common;
`--cluster=local` makes them processes of this machine. The same command skips finished points.
"""

import copy
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import tabulate
from absl import app, flags
from ml_collections import config_flags

from arada import attacks
from arada.data.shifted import sources as shift_sources
from arada.errors import UserError
from arada.evaluation import outcomes, summary
from arada.experiment import Experiment
from arada.runs.identity import run_identity, uses_precomputed
from arada.runs.workdir import Workdir
from arada.runtime import backend, console, files, hosts, preemption, provenance
from arada.runtime import cluster as clusters

# By name: as a command the module is called __main__.
logger = logging.getLogger("arada.sweep")

Grid = Mapping[str, Sequence[Any]]

# The paper's, by section: A.1 to A.3, and Figure 5, whose own points are not known.
GRIDS: dict[str, Grid] = {
    "label_smoothing": {"epsilon": tuple(round(0.01 * i, 2) for i in range(11))},
    "adals": {"alpha": (0.005, 0.01, 0.05, 0.1)},
    "adals_imagenet": {"alpha": (0.005, 0.01, 0.03, 0.05, 0.1)},
    "ar_adals": {"alpha": (0.005, 0.01, 0.05)},
    "figure_5": {"num_subsets": (1, 2, 4, 6, 8, 10, 12, 14, 16)},
}
# Runs at each point, where the figure has fewer than the paper's tables.
GRID_SEEDS = {"figure_5": 4}
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
    grid = {field: tuple(map(value_of, values.split(","))) for field, _, values in pairs}
    if not grid or any(not field or "" in values for field, values in grid.items()):
        raise UserError(f"--grid must be one of {', '.join(GRIDS)}, or like 'alpha=0.05,0.1 attack=fmn'; not {text!r}")
    if len(grid) < len(pairs) or any(len(set(values)) < len(values) for values in grid.values()):
        raise UserError(f"--grid is {text!r}; name each field and each of its values once")
    return grid


def value_of(text: str) -> Any:
    """A number if the text is one."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return text


def points(config: ml_collections.ConfigDict, grid: Grid) -> dict[str, ml_collections.ConfigDict]:
    """The config of every point by the name of its runs, METHOD/FIELD_VALUE-FIELD_VALUE. Raises UserError."""
    if config.ensemble.of:
        raise UserError(f"--config: {config.name} has no runs of its own; sweep {config.ensemble.of}")
    found: dict[str, ml_collections.ConfigDict] = {}
    same: dict[str, str] = {}
    for values in itertools.product(*grid.values()):
        # With the fields that depend on others, such as the learning rate on the batch size.
        point = copy.deepcopy(config).lock()
        for field, value in zip(grid, values, strict=True):
            set_field(point, field, value)
        point.name = f"{config.name}/" + "-".join(f"{field}_{value}" for field, value in zip(grid, values, strict=True))
        found[point.name] = point
        identity = json.dumps(run_identity(point, seed=0, num_devices=1), sort_keys=True)
        if (other := same.setdefault(identity, point.name)) != point.name:
            raise UserError(f"--grid: {other} and {point.name} would be the same run; {config.name} does not use this")
    return found


def set_field(config: ml_collections.ConfigDict, field: str, value: Any) -> None:
    """Sets a field, or the one that has a short name. Raises UserError."""
    path, node = FIELDS.get(field, field), config
    if path.startswith(("data.", "model.")):
        raise UserError(f"--grid: {path} is the same for all of a workdir; use a --workdir for each of its values")
    if path == "ranking.attack" or path.split(".")[:-1] in (["ranking", attack] for attack in attacks.BY_NAME):
        # Rankings by several attacks lie side by side.
        folder = str(value) if path == "ranking.attack" else f"{path}_{value}"
        config.ranking.folder = "-".join(filter(None, (config.ranking.folder, folder)))
    for key in path.split("."):
        if not (isinstance(node, ml_collections.ConfigDict) and key in node):
            raise UserError(f"--grid: the config has no field {path!r}; short names are {', '.join(FIELDS)}")
        node = node[key]
    try:
        config.update_from_flattened_dict({path: ((0, float(value)),) if field == "alpha" else value})
    except (TypeError, ValueError) as error:
        raise UserError(f"--grid: {field}={value} does not fit the config: {error}") from None


def run_point(config: Mapping[str, Any], workdir: str) -> None:
    """Ranks if need be, trains and predicts at one point, given as a plain dict."""
    experiment = Experiment(ml_collections.ConfigDict(config, convert_dict=True), workdir, is_sweep_point=True)
    if uses_precomputed(experiment.config):
        experiment.rank()
    experiment.train()
    experiment.predict()


def run_shared(configs: Sequence[Mapping[str, Any]], workdir: str) -> None:
    """Makes what points share: vanilla runs, the rankings of all configs except the first, and shifted images."""
    base, *ranked = (ml_collections.ConfigDict(config, convert_dict=True) for config in configs)
    experiment = Experiment(base, workdir)
    if ranked:
        experiment.vanilla()
    for config in ranked:
        Experiment(config, workdir, is_sweep_point=True).rank()
    generate_shifted(experiment)


def run(
    config: ml_collections.ConfigDict, workdir: str, grid: Grid, submit: clusters.Submit | None = None
) -> dict[str, Any]:
    """Runs what is missing of every point, here or through `submit`, and returns what `compare` finds."""
    configs = points(config, grid)
    # All of them first: a mistake in the last point costs nothing.
    for point in configs.values():
        Experiment(point, workdir, is_sweep_point=True)
    # One ranking for each attack, before tasks that would all make it.
    ranked = {point.ranking.folder: point for point in configs.values() if uses_precomputed(point)}
    shared = [point.to_dict() for point in (config, *ranked.values())]
    if submit:
        if ranked or config.evaluation.shift_source == "generated":
            submit(run_shared, [shared])
        tasks = [point.to_dict() | {"seeds": (seed,)} for point in configs.values() for seed in config.seeds]
        submit(run_point, tasks)
    else:
        run_shared(shared, workdir)
        for number, (name, point) in enumerate(configs.items(), start=1):
            logger.info("%s: point %d of %d", name, number, len(configs))
            run_point(point.to_dict(), workdir)
            backend.drop_programs()
    hosts.wait("the end of all points")
    return compare(config, workdir, grid)


def generate_shifted(experiment: Experiment) -> None:
    """Makes the images that one folder holds for all tasks, which would otherwise write there at once."""
    evaluation = experiment.config.evaluation
    if evaluation.shift_source != "generated":
        return
    names = shift_sources.types(evaluation)
    absent = experiment.shifted.absent(names, evaluation.severities)
    for name in names:
        if name not in absent:
            experiment.shifted.shifted(name, 1)  # all severities are in one file


def compare(config: ml_collections.ConfigDict, workdir: str, grid: Grid) -> dict[str, Any]:
    """Every point's metrics by seed, and the point with the lowest mean of `evaluation.choose_by` on validation."""
    names = points(config, grid)
    runs = [(name, seed) for name in names for seed in config.seeds]
    methods = summary.summarize(Workdir(workdir), config, runs=runs)["methods"]
    measured: list[dict[str, Any]] = []
    for name, values in zip(names, itertools.product(*grid.values()), strict=True):
        by_seed = list(methods[name]["runs"].values())
        shifted = [[one["ece"] for kind in run["shift"].values() for one in kind] for run in by_seed]
        measured.append(
            {
                "name": name,
                "values": dict(zip(grid, values, strict=True)),
                **{f"validation_{key}": [run["validation"][key] for run in by_seed] for key in outcomes.CRITERIA},
                "accuracy": [run["test"]["accuracy"] for run in by_seed],
                "ece": [run["test"]["ece"] for run in by_seed],
                "ece_under_shift": [float(np.mean(errors)) if errors else None for errors in shifted],
            }
        )
    criterion = config.evaluation.choose_by
    chosen = min(measured, key=lambda point: np.mean(point[f"validation_{criterion}"]))
    return {
        "method": config.name,
        "seeds": list(config.seeds),
        "num_bins": config.evaluation.num_bins,
        "points": measured,
        "chosen_by": criterion,
        "chosen": chosen["name"],
        "commit": provenance.commit(),
        "hardware": provenance.hardware(),
    }


def table(found: Mapping[str, Any]) -> str:
    """The points as a Markdown table: NLL and Brier score unscaled, the others in percent."""
    criterion = found["chosen_by"]
    validation_columns = {
        f"validation_{key}": f"validation {outcomes.CRITERIA[key]}" for key in dict.fromkeys([criterion, "ece"])
    }
    columns = validation_columns | {"accuracy": "accuracy", "ece": "ECE", "ece_under_shift": "shift ECE"}
    fields = list(found["points"][0]["values"])
    rows = []
    for point in found["points"]:
        cells = [*map(str, point["values"].values()), *(_cell(column, point[column]) for column in columns)]
        rows.append([f"**{cell}**" for cell in cells] if point["name"] == found["chosen"] else cells)
    text = tabulate.tabulate(rows, [*fields, *columns.values()], "pipe", disable_numparse=True)
    return (
        f"{text}\n\nECE of {found['num_bins']} bins and accuracy x100; {found['method']}, seeds {found['seeds']}; "
        f"bold: lowest {validation_columns[f'validation_{criterion}']}.\n"
    )


def _cell(column: str, values: Sequence[float | None]) -> str:
    unscaled = column in ("validation_nll", "validation_brier")
    scale, digits = (1, 4) if unscaled else (100, 2)
    numbers = [scale * value for value in values if value is not None]
    spread = f" ± {np.std(numbers, ddof=1):.{digits}f}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.{digits}f}{spread}" if numbers else "not run"


def sweep(config: ml_collections.ConfigDict, workdir: str, grid: str, cluster: str, job: Sequence[str]) -> str:
    """Runs the grid and writes what `compare` finds; returns its table. The arguments are the flags."""
    fields = dict(parse_grid(grid))
    # Seeds are what a point is a mean over, and nothing to choose.
    config.seeds = fields.pop("seeds", config.seeds[: GRID_SEEDS.get(grid)])
    submit = clusters.submitter(cluster, workdir, "sweeps", clusters.parameters(job, value_of)) if cluster else None
    found = run(config, workdir, fields, submit)
    name = f"{config.name}-{'-'.join(fields)}"
    if hosts.is_first():
        files.write_json(Workdir(workdir).path / "sweeps" / f"{name}.json", found)
        files.write_text(Workdir(workdir).path / "sweeps" / f"{name}.md", table(found))
    return table(found)


def main() -> None:
    """Entry point."""
    config = config_flags.DEFINE_config_file("config", None, "Path of a config file, with presets.", lock_config=True)
    workdir = flags.DEFINE_string("workdir", None, "Folder of the experiment; finished points are not run again.")
    grid = flags.DEFINE_string("grid", None, f"One of {', '.join(GRIDS)}, or 'field=value,value field=value'.")
    cluster = flags.DEFINE_enum("cluster", "", ("", "slurm", "local"), "Where points run; empty: here, one by one.")
    job = flags.DEFINE_multi_string("job", [], "A parameter of submitit, such as --job=timeout_min=600.")
    join_others = console.process_flags()
    flags.mark_flags_as_required(["config", "workdir", "grid"])

    def start(_) -> None:
        console.start_logging()
        with console.ending_in_one_line():
            join_others()
            preemption.listen()
            print(sweep(config.value, workdir.value or "", grid.value or "", cluster.value or "", job.value))

    app.run(start, flags_parser=console.config_parser(config))


if __name__ == "__main__":
    main()
