"""The amount of work of an experiment: images, and an attack's gradients and forward passes for each."""

from collections.abc import Mapping
from typing import NamedTuple

import ml_collections

from arada.data.shifted import sources as shift_sources
from arada.runs import trained
from arada.runs.identity import ranking_sources, refreshes_after, source_run

# Forward passes an image besides an attack's gradients: the label, the ray's 3 (`arada.attacks.ray`), the last check.
_RAY, _AROUND = 3, 2


def passes(by: str, attack: str, settings: Mapping[str, float]) -> tuple[float, float]:
    """Gradients and forward passes an image of a ranking, without the images that first-order estimates leave
    undecided. (0, 0) for an attack that is not listed here, such as a new one: its own program is timed.
    """
    if by != "attack":
        return 0, 1 if by == "confidence" else 0
    if attack == "cw":
        return settings["binary_search_steps"] * settings["max_iterations"], _AROUND
    if attack == "fmn":
        return settings["steps"], _RAY + _AROUND
    if attack == "sdf":
        gradients = settings["rounds"] * (settings["steps"] * settings["candidates"] + 1)
        return gradients, _RAY + _AROUND + 1
    if attack == "estimate":
        return settings["candidates"], 1
    if attack == "first_order":
        return settings["candidates"], _RAY + _AROUND
    return 0, 0


class Images(NamedTuple):
    """How many images an experiment trains on, passes forward after epochs, ranks, ranks again, and evaluates."""

    trained: float
    validated: float
    ranked: float
    refreshed: float
    evaluated: float


def images_of(config: ml_collections.ConfigDict, num_test: int = 0, *, alone: bool = True) -> Images:
    """The images of all stages: the runs that are ranked, their rankings, then each seed trained, ranked again if
    configured, evaluated.

    `num_test` is for data whose config does not say it. Out-of-distribution sets are left out, because their sizes
    are not in the config either. Where the experiment is not `alone` in its workdir, another one has trained vanilla
    and ranked the splits.
    """
    runs = num_runs(config, alone=alone)
    return Images(
        trained=runs * trained.total_steps(config) * config.training.batch_size,
        validated=runs * config.training.epochs * config.data.num_validation,
        ranked=alone * sum(ranked_sets(config, num_test)),
        refreshed=sum(refreshed_sets(config)),
        evaluated=len(config.seeds) * sum(evaluated_sets(config, num_test)),
    )


def num_runs(config: ml_collections.ConfigDict, *, alone: bool = True) -> int:
    """The number of runs that are trained: the config's own and, if it is `alone`, the vanilla runs that are ranked."""
    runs = {(config.name, seed) for seed in config.seeds}
    if alone and not config.training.init_from:
        runs |= {run for run in _ranked_runs(config) if run[0] == "vanilla"}
    return len(runs)


def _ranked_runs(config: ml_collections.ConfigDict) -> set[tuple[str, int]]:
    sources = (source_run(source) for seed in config.seeds for source in ranking_sources(config, seed))
    return set(filter(None, sources))


def ranked_sets(config: ml_collections.ConfigDict, num_test: int = 0) -> list[int]:
    """The size of each set that is ranked before training: the splits, by each source run."""
    splits = [config.data.num_train, config.data.num_validation, config.data.get("num_test", num_test)]
    return splits * len(_ranked_runs(config))


def refreshed_sets(config: ml_collections.ConfigDict) -> list[int]:
    """The size of each set that is ranked again, at each refresh of a seed."""
    refreshes = sum(refreshes_after(config, epoch) for epoch in range(config.training.epochs))
    return [config.data.num_train, config.data.num_validation] * (len(config.seeds) * refreshes)


def evaluated_sets(config: ml_collections.ConfigDict, num_test: int = 0) -> list[int]:
    """The size of each set that a run is evaluated on."""
    evaluation, num_test = config.evaluation, config.data.get("num_test", num_test)
    shifted = len(shift_sources.types(evaluation)) * len(evaluation.severities)
    size = min(evaluation.max_examples_per_shift or num_test, num_test)
    return [num_test, config.data.num_validation, *[size] * shifted]
