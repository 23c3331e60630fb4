"""The stages of one experiment, in order: vanilla, rank, train, evaluate, report.

Each stage runs only what the workdir lacks; each can run alone.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from arada import checks, data, reporting
from arada.data.shifted import sources as shift_sources
from arada.errors import UserError
from arada.evaluation import extremes, predictions, summary
from arada.evaluation.prediction_job import PredictionJob
from arada.runs import ranking as rankings
from arada.runs import trained, trainer
from arada.runs import workdir as workdirs
from arada.runs.identity import (
    differences,
    members_of,
    ranking_sources,
    run_identity,
    source_run,
    uses_precomputed,
    vanilla_config,
)
from arada.runtime import backend, files, hosts, kernels, preemption
from arada.training.replication import Replicas

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
STAGES = ("vanilla", "rank", "train", "evaluate", "report")


class Experiment:
    """One config in one workdir. Data are read when the first stage needs them."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: str, *, is_sweep_point: bool = False):
        self.config = config
        self.workdir = workdirs.Workdir(workdir)
        backend.configure(config.run, self.workdir.path)
        devices, processes = backend.devices(), jax.process_count()
        if not 0 <= config.run.num_devices <= len(devices):
            raise UserError(f"run.num_devices is {config.run.num_devices}, but there are {len(devices)}; 0 means all")
        if processes > 1 and config.run.num_devices not in (0, len(devices)):
            raise UserError(
                f"run.num_devices is {config.run.num_devices}, but {processes} processes use all; leave it at 0"
            )
        devices = devices[: config.run.num_devices or None]
        checks.check_config(config, len(devices), processes, is_sweep_point=is_sweep_point)
        self.replicas = Replicas(devices, config.run.mapping)
        if config.run.cpu_kernels == "onednn":
            _ = self._available_kernels  # an error comes before any compute
        with hosts.failing_together():
            self.workdir.create()
        hosts.check_alike(self.workdir.path, config)
        workdirs.check_shared(self.workdir, config)
        self._check_vanilla()
        logger.info(
            "%s on %d x %s%s: batches of %d, %d a device%s, mapped by %s",
            config.name,
            len(devices),
            devices[0].device_kind,
            f" of {processes} processes" if processes > 1 else "",
            config.training.batch_size,
            config.training.batch_size // len(devices),
            f" in {config.training.accumulate} parts" if config.training.accumulate > 1 else "",
            config.run.mapping,
        )

    @functools.cached_property
    def _available_kernels(self) -> str:
        """The CPU kernels for training and attacks. Predictions use stock ones, like `arada.load`."""
        return kernels.choose(self.config, self.replicas.devices)

    @functools.cached_property
    def dataset(self) -> data.Dataset:
        """The data set, not read yet."""
        return data.build(self.config.data, self.config.run.data_dir)

    @functools.cached_property
    def splits(self) -> Mapping[str, Any]:
        """Train, validation and test, the same as when the workdir's first run read them."""
        with hosts.failing_together():
            splits = data.load_splits(self.dataset, self.config.data)
        with hosts.failing_together():
            workdirs.claim_data(self.workdir, {name: split.fingerprint() for name, split in splits.items()})
        return splits

    @property
    def shifted(self) -> shift_sources.ShiftSource:
        """Where shifted versions of the test split come from."""
        return shift_sources.build(self.config, self.dataset, self.splits["test"], self.workdir.path)

    @property
    def sources(self) -> predictions.Sources:
        """Where all images of the evaluation come from."""
        return predictions.Sources(self.dataset, self.shifted, self.splits)

    def _check_vanilla(self) -> None:
        """Raises UserError if the run named vanilla is not: it is trained and ranked first, and all methods are
        compared with it.
        """
        configs = self.config, vanilla_config(self.config)
        identity, vanilla_identity = (run_identity(config, 0, len(self.replicas)) for config in configs)
        line = "{field} is {stored} in vanilla training and {new} here"
        if self.config.name == "vanilla" and (differing := differences(vanilla_identity, identity, line)):
            fault = "; ".join(differing)
            raise UserError(f"name is 'vanilla', but {fault}; name the method by --config.name, or use its preset")

    def run(self, stage: str = "all") -> None:
        """Runs one stage, or all of them."""
        if stage in ("all", "train", "evaluate"):
            workdirs.check_seeds_alike(self.workdir, self.config)
        if stage in ("all", "train") and self.config.training.init_from:
            config, seeds = self._runs()
            for run_seed in seeds:
                done = trained.is_finished(self.workdir.run(config.name, run_seed), config)
                for seed in () if done else trained.network_seeds(config, run_seed):
                    trained.initial_dir(self.workdir, config, seed)
        if stage == "all":
            # Missing data can be fetched, and mistakes fixed, before hours of training.
            predictions.find_absent(self.config, self.sources)
        for name in STAGES if stage == "all" else (stage,):
            preemption.stop_if_asked(f"the stage {name}")
            getattr(self, name)()
            hosts.wait(f"the end of {name}")

    def vanilla(self) -> None:
        """Trains the vanilla runs of this workdir that are ranked."""
        runs_ = (source_run(source) for source in self._ranking_sources())
        seeds = tuple(seed for name, seed in filter(None, runs_) if name == "vanilla")
        if self.config.training.init_from:
            # The config's epochs count fine-tuning only; the runs that it starts from and is ranked by are trained
            # already.
            for seed in seeds:
                self._check_trained("vanilla", seed)
        else:
            self._train(vanilla_config(self.config), seeds)

    def _check_trained(self, name: str, seed: int) -> None:
        run_dir = self.workdir.run(name, seed)
        if not ((run_dir / "config.json").exists() and trained.is_finished(run_dir, workdirs.stored_config(run_dir))):
            raise UserError(
                f"ranking.source needs {name}/seed_{seed}, which has not finished training; with training.init_from "
                f"set this command does not train it, so run the same --config with the preset {name} and without "
                "finetune first"
            )

    def rank(self) -> None:
        """Ranks every image of the three splits by the source runs' weights, or by a control."""
        self._rank(self.config, self._ranking_sources())

    def _ranking_sources(self) -> list[str]:
        """The sources of the rankings, each once, in the order of the seeds."""
        by_seed = (ranking_sources(self.config, seed) for seed in self.config.seeds)
        return list(dict.fromkeys(source for sources in by_seed for source in sources))

    def _rank(self, config: ml_collections.ConfigDict, sources: list[str], splits: tuple[str, ...] = SPLITS) -> None:
        replicas = self.replicas.own.using(self._available_kernels)
        rankings.rank_by_sources(config, self.workdir, sources, {name: self.splits[name] for name in splits}, replicas)

    def train(self) -> None:
        """Trains the config's method with each of its seeds; for an ensemble of single runs, the members that are
        missing.
        """
        self._train(*self._runs())

    def _runs(self) -> tuple[ml_collections.ConfigDict, tuple[int, ...]]:
        """The config and the seeds of the runs to train."""
        return members_of(self.config) if self.config.ensemble.of else (self.config, self.config.seeds)

    def evaluate(self) -> None:
        """Stores the predictions of the method's runs and the report's gallery, and computes all metrics."""
        absent = self.predict()
        if self.config.evaluation.subsets_of == "own":
            self._rank_own()
        extremes.write(self.workdir, self.config, self.dataset, self.splits["train"], self.replicas.own)
        if hosts.is_first():
            summary.write(self.workdir.evaluation, summary.summarize(self.workdir, self.config, absent))

    def predict(self) -> predictions.Absent:
        """Only stores the predictions of the method's runs; returns the data that could not be read, and why."""
        return PredictionJob(self.config, self.workdir, self.sources, self.replicas).predict()

    def _rank_own(self) -> None:
        """Ranks the test images by each run's own weights; an ensemble cannot be attacked and goes without."""
        config = ml_collections.ConfigDict(self.config.to_dict())
        if config.ensemble.of or config.ensemble.members > 1:
            return
        # Also of controls: a ranking of robustness is asked for.
        config.ranking.update(by="attack", folder="")
        self._rank(config, [f"{config.name}/seed_{seed}" for seed in config.seeds], ("test",))

    def report(self) -> None:
        """Writes the page, its figures and tables, unless they are newer than the metrics, and prints the table."""
        if not hosts.is_first():
            return
        page = reporting.newest(self.workdir.path) or reporting.write_report(self.workdir.path)
        print(reporting.terminal_table(files.read_json(self.workdir.evaluation)))
        print(f"Report: {page}")

    def _train(self, config: ml_collections.ConfigDict, seeds: tuple[int, ...]) -> None:
        trainers: dict[str, trainer.Trainer] = {}
        workdirs.check_seeds_alike(self.workdir, config)
        # Checks all seeds first: none is trained in vain.
        for seed in seeds if uses_precomputed(config) else ():
            if not trained.is_finished(self.workdir.run(config.name, seed), config):
                rankings.check_ranked(config, self.workdir, seed)
        imported = workdirs.imported_seeds(self.workdir, config.name)
        if imported and (others := [seed for seed in seeds if seed not in imported]):
            raise UserError(
                f"{config.name}/seed_{imported[0]} was imported, but seeds {others} would be trained: tables would mix "
                f"them. Set seeds to the imported ones, import the others too, or choose another name"
            )
        for seed in seeds:
            run_dir = self.workdir.run(config.name, seed)
            if seed in imported:
                identity = workdirs.identity_of_run(run_dir, config, seed, len(self.replicas))
                workdirs.claim(run_dir, identity, config)
                logger.info("%s/seed_%d was imported", config.name, seed)
                continue
            identity = run_identity(config, seed, len(self.replicas))
            if config.training.init_from:
                identity["init_weights"] = trained.initial_weights(self.workdir, config, seed)
            workdirs.check_claim(run_dir, identity)
            finished = trained.is_finished(run_dir, config)
            if not finished:
                _ = self.splits  # rejected data leave no claim behind
            if finished:
                workdirs.claim(run_dir, identity, config)
                logger.info("%s/seed_%d is trained", config.name, seed)
                continue
            cpu_kernels = workdirs.kernels_to_use(run_dir, config, self._available_kernels)
            workdirs.claim(run_dir, identity, config, cpu_kernels)
            preemption.stop_if_asked(f"training {config.name}/seed_{seed}")
            if cpu_kernels not in trainers:
                replicas = self.replicas.using(cpu_kernels)
                trainers[cpu_kernels] = trainer.Trainer(config, self.workdir, self.splits, replicas)
            trainers[cpu_kernels].train(seed)
