"""Runs the missing runs of a study, one after the other or as jobs of a cluster, within its budget of hours."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from etils import epath

from arada import sweep
from arada.evaluation import predictions, summary
from arada.experiment import Experiment
from arada.metrics import calibration_floor
from arada.runs import workdir as workdirs
from arada.runs.identity import initial_run, run_identity, uses_precomputed
from arada.runtime import backend, cluster, files, hosts, preemption, provenance
from arada.studies import design, page
from arada.studies.clock import clock
from arada.studies.design import Task
from arada.studies.results import Results, is_complete, ranking_folders

logger = logging.getLogger(__name__)


class Runner:
    """A study in one workdir. Raises UserError for an invalid study before the first run."""

    def __init__(self, study: ml_collections.ConfigDict, workdir: epath.PathLike):
        design.check(study)
        self.study = study
        self.workdir = workdirs.Workdir(workdir)
        self.results = Results(study.results or self.workdir.path / "study")

    def finished(self) -> dict[Task, dict[str, Any]]:
        """The record of every finished run."""
        read = ((task, self.results.read(task)) for task in design.tasks(self.study))
        return {task: run for task, run in read if run}

    def config_of(self, task: Task) -> ml_collections.ConfigDict:
        """The config of a run that waits for no choice."""
        return design.config_of(self.study, task, design.chosen(self.study, self.finished()))

    def run(self, tasks: Sequence[Task], submit: cluster.Submit | None = None) -> None:
        """Runs the missing `tasks` until all are done or the budget is spent."""
        self._check_all()
        with hosts.first_before_others("rankings are restored"):
            if hosts.is_first():
                self.results.restore_rankings(self.workdir)
        if submit and any(fields.get("shift_source") == "generated" for fields in self.study.shifts.values()):
            submit(make_shifted, [self.study.to_dict()])
        while True:
            self.log_progress(tasks)
            # One machine runs a seed at a time, so that pairs are complete early; jobs start together.
            runnable = self._runnable(tasks)
            due = self._affordable(self._first_phase(runnable) if submit else runnable[:1])
            if not due:
                break
            if submit:
                submit(run_task, [(self.study.to_dict(), task) for task in due])
            else:
                preemption.stop_if_asked(f"{due[0].name}/seed_{due[0].seed}")
                self.run_task(due[0])
                backend.drop_programs()
            self.write_page()

    def _check_all(self) -> None:
        """Checks all configs first, so that a mistake in the last arm costs no compute."""
        choices, checked = design.chosen(self.study, self.finished()), set()
        for task in design.tasks(self.study):
            waits = design.waits_for(self.study, task, choices)
            config = self.study.arms[task.arm] if waits else design.config_of(self.study, task, choices)
            if config.name not in checked:
                checked.add(config.name)
                for fields in self.study.shifts.values():
                    part_config = ml_collections.ConfigDict(config.to_dict(), convert_dict=True)
                    part_config.evaluation.update(fields)
                    self._experiment(part_config)
            if not waits:
                self.results.check(task, config)

    def _experiment(self, config: ml_collections.ConfigDict) -> Experiment:
        return Experiment(config, self.workdir.path, is_sweep_point="/" in config.name)

    def _runnable(self, tasks: Sequence[Task]) -> list[Task]:
        """The missing `tasks` that wait for no choice, in their order."""
        finished = self.finished()
        choices = design.chosen(self.study, finished)
        return [task for task in self.left(tasks) if not design.waits_for(self.study, task, choices)]

    def _first_phase(self, tasks: list[Task]) -> list[Task]:
        """The tasks of the first phase that is left: candidates, arms that need no other, other arms, ensembles."""

        def phase(task: Task) -> int:
            config = self.study.arms[task.arm]
            if task.is_candidate:
                return 0
            return 3 if config.ensemble.of else 1 + bool(design.needed_arms(config))

        first = min(map(phase, tasks), default=0)
        return [task for task in tasks if phase(task) == first]

    def _affordable(self, tasks: list[Task]) -> list[Task]:
        """The first of `tasks` that fit into the budget."""
        finished = self.finished()
        hours, budget = self.spent(finished), self.study.budget_hours
        for number, task in enumerate(tasks):
            hours += self.expected(task, finished) or 0.0
            if hours > budget:
                logger.info("%s/seed_%d is not run: it would end after %.2f of %g hours", *task[1:], hours, budget)
                return tasks[:number]
        return tasks

    def run_task(self, task: Task) -> None:
        """Trains, ranks and predicts one run, and stores its record."""
        config = self.config_of(task)
        logger.info("study %s: %s/seed_%d", self.study.name, task.name, task.seed)
        with clock(self._hours(task)) as hours:
            experiment = self._experiment(config)
            # Reads the splits and writes their digests, which must match those of runs on other machines.
            _ = experiment.splits
            data = files.read_json(self.workdir.data)["sha256"]
            self.results.check_data(data)
            rank_once(experiment)
            self._train_initial(config, task.seed)
            experiment.train()
            if not task.is_candidate:
                self._rank_for_others(task)
            metrics, absent = self._evaluate(experiment, task)
        if hosts.is_first():
            made = {"commit": provenance.commit(), "hardware": provenance.hardware(), "versions": provenance.versions()}
            identity = run_identity(config, task.seed, len(experiment.replicas))
            self.results.write(
                task,
                {"name": config.name, "identity": identity, **made, "hours": hours()}
                | {"data": data, "absent": absent, "metrics": metrics},
            )
        hosts.wait(f"{task.name}/seed_{task.seed} is stored")

    def _train_initial(self, config: ml_collections.ConfigDict, seed: int) -> None:
        """Trains the run that this one starts from if its weights are not in this workdir."""
        if source := initial_run(config, seed):
            self._experiment(self.config_of(Task(source[0], *source))).train()

    def _rank_for_others(self, task: Task) -> None:
        """Makes and stores this run's rankings for all arms, which then do not need its weights."""
        finished = self.finished()
        choices = design.chosen(self.study, finished)
        for other in design.tasks(self.study):
            if other in finished or other.is_candidate or design.waits_for(self.study, other, choices):
                continue
            config = design.config_of(self.study, other, choices)
            own_folder = self.workdir.path / "robustness" / task.name / f"seed_{task.seed}"
            folders = ranking_folders(self.workdir, config)
            if any(folder == own_folder or own_folder in folder.parents for folder in folders):
                rank_once(self._experiment(config))
                if hosts.is_first():
                    self.results.keep_rankings(self.workdir, config)

    def _evaluate(self, experiment: Experiment, task: Task) -> tuple[dict[str, Any], dict[str, Any]]:
        """The run's metrics, with "shift" by the study's parts, and the missing data."""
        config = experiment.config
        metrics: dict[str, Any] = {}
        absent: dict[str, Any] = {}
        # Candidates of a choice need no shifted images.
        parts = {"clean": {"shifts": ()}} if task.is_candidate else self.study.shifts.to_dict()
        for part, fields in parts.items():
            config.evaluation.update(fields)
            if task.is_candidate:
                config.evaluation.out_of_distribution = ()
            missing = experiment.predict()
            absent[part] = dataclasses.asdict(missing)
            report = summary.summarize(self.workdir, config, missing, [(config.name, task.seed)])
            run = report["methods"][config.name]["runs"][str(task.seed)]
            metrics = _joined(metrics, run, part)
        if not task.is_candidate and hosts.is_first():
            directory = self.workdir.predictions(config.name, task.seed)
            probabilities, labels, _ = predictions.read(directory, "test")
            floor = calibration_floor(probabilities, num_bins=config.evaluation.num_bins)
            metrics["test"] = {"ece_floor": floor.mean} | metrics["test"]
            self.results.write_probabilities(task, probabilities, labels)
        return metrics, absent

    def _hours(self, task: Task) -> epath.Path:
        return self.workdir.path / "study_hours" / task.name / f"seed_{task.seed}.json"

    def spent(self, finished: Mapping[Task, Mapping[str, Any]]) -> float:
        """The hours of all finished runs, and of unfinished ones in this workdir."""
        begun = (self._hours(task) for task in design.tasks(self.study) if task not in finished)
        hours = (files.read_json(file)["hours"] for file in begun if file.exists())
        return sum(run["hours"] for run in finished.values()) + sum(hours)

    def expected(self, task: Task, finished: Mapping[Task, Mapping[str, Any]]) -> float | None:
        """A run's expected hours: the mean of the arm's runs, else in proportion to its images; None if no run is
        finished."""
        alike = [
            run["hours"]
            for other, run in finished.items()
            if (other.arm, other.is_candidate) == (task.arm, task.is_candidate)
        ]
        if alike:
            return sum(alike) / len(alike)
        images = sum(self._images(other) for other in finished)
        return sum(run["hours"] for run in finished.values()) / images * self._images(task) if images else None

    def _images(self, task: Task) -> float:
        config = self.study.arms[task.arm]
        return 0 if config.ensemble.of else config.ensemble.members * config.training.epochs * config.data.num_train

    def left(self, tasks: Sequence[Task]) -> dict[Task, float | None]:
        """The expected hours of each unfinished task."""
        finished = self.finished()
        return {task: self.expected(task, finished) for task in tasks if task not in finished}

    def log_progress(self, tasks: Sequence[Task]) -> None:
        """Logs the numbers of finished and missing runs, and the hours."""
        finished, left = self.finished(), self.left(tasks)
        spent, budget = self.spent(finished), self.study.budget_hours
        known = [hours for hours in left.values() if hours is not None]
        needed = f"about {sum(known):.2f} hours" if known or not left else "hours unknown before the first run ends"
        logger.info(
            "study %s: %d runs done, %d left, %s; %.2f of %g hours spent",
            *(self.study.name, len(finished), len(left), needed, spent, budget),
        )

    def write_page(self) -> epath.Path:
        """Writes the page of the current results, and returns its path."""
        file, finished = self.results.path / "index.md", self.finished()
        if hosts.is_first():
            text = page.page(self.study, finished, self.left(design.tasks(self.study)), self.results.read_probabilities)
            files.write_text(file, text)
        return file


def rank_once(experiment: Experiment) -> None:
    """Makes the rankings that training needs; if they exist, the weights of their source are not needed."""
    config, workdir = experiment.config, experiment.workdir
    if not uses_precomputed(config) or not _missing_rankings(workdir, config):
        return
    if config.ranking.by != "random":
        experiment.vanilla()
    experiment.rank()


def _missing_rankings(workdir: workdirs.Workdir, config: ml_collections.ConfigDict) -> bool:
    folders = ranking_folders(workdir, config)
    return not folders or not all(map(is_complete, folders))


def run_task(job: tuple[dict[str, Any], tuple], workdir: str) -> None:
    """Runs one run as a job of a cluster, given as plain values."""
    study, task = job
    Runner(ml_collections.ConfigDict(study, convert_dict=True), workdir).run_task(Task(*task))


def make_shifted(study: dict[str, Any], workdir: str) -> None:
    """Makes the shifted images on disk before the jobs start, which would all write them at once."""
    arm = next(iter(study["arms"].values()))
    for fields in study["shifts"].values():
        config = ml_collections.ConfigDict(arm, convert_dict=True)
        config.evaluation.update(fields)
        sweep.generate_shifted(Experiment(config, workdir))


def _joined(metrics: dict[str, Any], run: Mapping[str, Any], part: str) -> dict[str, Any]:
    """A run's metrics with one more part of the shifts: "shift" becomes {part: {type: [...]}}."""

    def with_part(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
        return {**now, "shift": before.get("shift", {}) | {part: now["shift"]}}

    before = metrics.get("calibrated", {})
    calibrated = {name: with_part(before.get(name, {}), now) for name, now in run["calibrated"].items()}
    return with_part(metrics, run) | {"calibrated": calibrated}
