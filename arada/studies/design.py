"""A study: arms, seeds, outcomes, comparisons, claims and a budget, checked before the first run.

`configs/studies/design.py` explains the fields.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from arada import sweep
from arada.errors import UserError
from arada.runs.identity import (
    RUN_NAME,
    differences,
    initial_run,
    ranking_sources,
    shared_identity,
    source_run,
    uses_precomputed,
)
from arada.studies import outcomes

FIELDS = (
    *("name", "question", "stated", "seeds", "arms", "if_affordable", "choices", "shifts", "outcomes"),
    *("comparisons", "claims", "budget_hours", "results"),
)


class Task(NamedTuple):
    """One run of a study. `name` is the run's name: the arm, or a candidate value of a choice."""

    arm: str
    name: str
    seed: int

    @property
    def is_candidate(self) -> bool:
        """Whether the run only serves to choose a value."""
        return self.name != self.arm


def check(study: ml_collections.ConfigDict) -> None:
    """Raises UserError, in one line, for a study that cannot be run or would have no verdict."""
    if missing := [field for field in FIELDS if field not in study]:
        raise UserError(
            f"--study is not a study: it has no field {missing[0]!r}; build it with configs/studies/design.py, like "
            f"configs/studies/ranking.py"
        )
    if not re.fullmatch(RUN_NAME, study.name):
        raise UserError(f"study.name is {study.name!r}; it must be a folder's name: letters, digits, any of _ . + -")
    seeds = study.seeds
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"study.seeds is {seeds}; name one or more, each once and 0 or above, such as (0, 1, 2)")
    if study.budget_hours <= 0:
        raise UserError(f"study.budget_hours is {study.budget_hours}; it must be above 0")
    _check_arms(study)
    _check_choices(study)
    _check_shifts(study)
    for name, outcome in study.outcomes.items():
        try:
            outcomes.parse(outcome.of)
        except ValueError as error:
            raise UserError(f"study.outcomes.{name}.of is {outcome.of!r}: {error}") from None
    for name, comparison in study.comparisons.items():
        for side in ("arm", "reference"):
            _known(f"study.comparisons.{name}.{side}", comparison[side], study.arms)
    for name, claim in study.claims.items():
        _check_claim(f"study.claims.{name}", claim, study)


def _check_arms(study: ml_collections.ConfigDict) -> None:
    if not study.arms:
        raise UserError("study.arms is empty; name the configs to compare")
    for arm in study.if_affordable:
        _known("study.if_affordable", arm, study.arms)
    first, *others = study.arms
    for name, config in study.arms.items():
        if config.name != name:
            raise UserError(f"study.arms.{name} has runs called {config.name!r}; give arm and runs the same name")
        member = config.ensemble.of
        if member and (member not in study.arms or any(choice.arm == member for choice in study.choices.values())):
            raise UserError(
                f"study.arms.{name} averages {member!r}, which must be an arm without a choice; set ensemble.of to one"
            )
        for field, source in needed_arms(config).items():
            if source not in study.arms:
                raise UserError(f"study.arms.{name} has {field}={source}/..., which is not an arm; add this arm")
    for name in others:
        line = f"{{field}} is {{stored}} in {first} and {{new}} in {name}"
        if differing := differences(shared_identity(study.arms[first]), shared_identity(study.arms[name]), line):
            raise UserError(f"study.arms differ in data or network: {'; '.join(differing)}")


def _check_shifts(study: ml_collections.ConfigDict) -> None:
    if not study.shifts:
        raise UserError("study.shifts is empty; name at least one part, such as {'simple': {'shifts': ('simple',)}}")
    for part, fields in study.shifts.items():
        for config in study.arms.values():
            if unknown := [field for field in fields if field not in config.evaluation]:
                raise UserError(f"study.shifts.{part} has {unknown[0]!r}, which is not a field of evaluation")


def _check_choices(study: ml_collections.ConfigDict) -> None:
    for name, choice in study.choices.items():
        for arm in (choice.arm, *choice.arms):
            _known(f"study.choices.{name}", arm, study.arms)
        if len(set(choice.candidates)) < max(len(choice.candidates), 2):
            raise UserError(f"study.choices.{name}.candidates is {choice.candidates}; name two or more, each once")
        _points(study, name)


def _check_claim(field: str, claim: ml_collections.ConfigDict, study: ml_collections.ConfigDict) -> None:
    for comparison, outcome in (*claim.upheld_by, claim.refuted_by):
        _known(field, comparison, study.comparisons)
        _known(field, outcome, study.outcomes)
    effect = claim.smallest_effect
    _known(f"{field}.smallest_effect.arm", effect.arm, study.arms)
    _known(f"{field}.smallest_effect.outcome", effect.outcome, study.outcomes)
    if not (claim.upheld_by and effect.share > 0):
        raise UserError(f"{field} needs upheld_by, and smallest_effect.share above 0")


def _known(field: str, value: str, names) -> None:
    if value not in names:
        raise UserError(f"{field} names the unknown {value!r}; choose one of {', '.join(names) or 'none'}")


def selected(study: ml_collections.ConfigDict, seeds: Sequence[str], arms: Sequence[str]) -> list[Task]:
    """The runs with these seeds and arms (all if empty), and the runs that they depend on. Raises UserError."""
    for seed in seeds:
        if seed not in (known := tuple(map(str, study.seeds))):
            raise UserError(
                f"--seeds names {seed!r}, but the study has {', '.join(known)}; --study.seeds=... changes them"
            )
    for arm in arms:
        _known("--arms", arm, study.arms)
    wanted = set(arms or study.arms)
    wanted |= {source for arm in wanted for source in needed_arms(study.arms[arm]).values()}
    choices = [choice for choice in study.choices.values() if wanted.intersection(choice.arms)]

    def is_wanted(task: Task) -> bool:
        if task.is_candidate:
            return any(choice.arm == task.arm for choice in choices)
        has_seed = not seeds or str(task.seed) in seeds or bool(study.arms[task.arm].ensemble.of)
        return task.arm in wanted and has_seed

    return list(filter(is_wanted, tasks(study)))


def needed_arms(config: ml_collections.ConfigDict) -> dict[str, str]:
    """The arms whose runs a run of `config` is ranked by and starts from, by the field that names them."""
    runs = {
        "ranking.source": source_run(ranking_sources(config, 0)[0]) if uses_precomputed(config) else None,
        "training.init_from": initial_run(config, 0),
    }
    return {field: run[0] for field, run in runs.items() if run}


def tasks(study: ml_collections.ConfigDict) -> list[Task]:
    """All runs in their order: candidates of choices, then the arms, a seed at a time, then the arms if affordable.

    An ensemble's seeds are its config's.
    """
    found = []
    for name, choice in study.choices.items():
        found += [Task(choice.arm, point, choice.seed) for point in _points(study, name)]
    for later in (False, True):
        arms = {name: config for name, config in study.arms.items() if (name in study.if_affordable) == later}
        ensembles = {name: config for name, config in arms.items() if config.ensemble.of}
        found += [Task(name, name, seed) for seed in study.seeds for name in arms if name not in ensembles]
        found += [Task(name, name, seed) for name, config in ensembles.items() for seed in config.seeds]
    return found


def _points(study: ml_collections.ConfigDict, name: str) -> dict[str, ml_collections.ConfigDict]:
    """The candidate configs of the choice `name`, by the name of their runs."""
    choice = study.choices[name]
    try:
        return sweep.points(study.arms[choice.arm], {choice.field: choice.candidates})
    except UserError as error:
        raise UserError(f"study.choices.{name}: {str(error).removeprefix('--grid: ')}") from None


def chosen(study: ml_collections.ConfigDict, finished: Mapping[Task, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The chosen values, those with the lowest validation ECE.

    {choice: {"value", "point", "validation_ece": {value: ECE}}}; choices with unfinished runs are left out.
    """
    found = {}
    for name, choice in study.choices.items():
        points = dict(zip(_points(study, name), choice.candidates, strict=True))
        runs = {point: finished.get(Task(choice.arm, point, choice.seed)) for point in points}
        errors = {point: run["metrics"]["validation"]["ece"] for point, run in runs.items() if run is not None}
        if len(errors) == len(runs):
            best = min(errors, key=lambda point: errors[point])
            by_value = {str(value): errors[point] for point, value in points.items()}
            found[name] = {"value": points[best], "point": best, "validation_ece": by_value}
    return found


def config_of(
    study: ml_collections.ConfigDict, task: Task, choices: Mapping[str, Mapping[str, Any]]
) -> ml_collections.ConfigDict:
    """The config of one run. If this run is the chosen candidate of its own arm, it keeps the candidate's name."""
    if task.is_candidate:
        points = (item for name in study.choices for item in _points(study, name).items())
        (config,) = (config for point, config in points if point == task.name)
        config.seeds = (task.seed,)
        return config
    config = ml_collections.ConfigDict(study.arms[task.arm].to_dict(), convert_dict=True)
    config.seeds = (task.seed,)
    for name, choice in study.choices.items():
        if task.arm in choice.arms:
            sweep.set_field(config, choice.field, choices[name]["value"])
            if (task.arm, task.seed) == (choice.arm, choice.seed):
                config.name = choices[name]["point"]
    return config


def waits_for(study: ml_collections.ConfigDict, task: Task, choices: Mapping[str, Any]) -> list[str]:
    """The choices that a run depends on and that have not been made yet."""
    if task.is_candidate:
        return []
    return [name for name, choice in study.choices.items() if task.arm in choice.arms and name not in choices]
