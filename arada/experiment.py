"""The stages of one experiment, in order: vanilla, rank, train, evaluate, report.

Each stage looks at what the workdir has and does what is missing; each can run alone.
"""

import contextlib
import functools
import logging

import jax
import jax.numpy as jnp
import ml_collections

from arada import backend, checks, data, files, hosts, lease, models, preemption, robustness, runs, trained
from arada import workdir as workdirs
from arada.data import shift_sources
from arada.errors import UserError
from arada.evaluation import gallery, predictions, summary
from arada.training.replication import Replicas
from arada.training.state import fingerprint

logger = logging.getLogger(__name__)

STAGES = ("vanilla", "rank", "train", "evaluate", "report")


class Experiment:
    """One config in one workdir. Data are read when a stage first needs them."""

    def __init__(self, config: ml_collections.ConfigDict, workdir: str, *, of_sweep: bool = False):
        self.config = config
        self.workdir = workdirs.Workdir(workdir)
        backend.configure(config.run)
        devices, processes = sorted(jax.devices(), key=lambda device: device.process_index), jax.process_count()
        if not 0 <= config.run.num_devices <= len(devices):
            raise UserError(f"run.num_devices is {config.run.num_devices}, but there are {len(devices)}; 0 takes all")
        if processes > 1 and config.run.num_devices not in (0, len(devices)):
            raise UserError(
                f"run.num_devices is {config.run.num_devices}, but {processes} processes use all; leave it at 0"
            )
        devices = devices[: config.run.num_devices or None]
        checks.check_config(config, len(devices), processes, of_sweep=of_sweep)
        self.replicas = Replicas(devices, config.run.mapping)
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
    def dataset(self) -> data.Dataset:
        """The data set, not read yet."""
        return data.build(self.config.data, self.config.run.data_dir)

    @functools.cached_property
    def splits(self) -> dict[str, data.Examples]:
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

    def _check_vanilla(self) -> None:
        """What is called vanilla is: it is trained and ranked first, and everything is compared with it."""
        configs = self.config, vanilla_config(self.config)
        of_config, of_vanilla = (workdirs.run_identity(config, 0, len(self.replicas)) for config in configs)
        if self.config.name == "vanilla" and (differing := workdirs.differences(of_vanilla, of_config)):
            told = "; ".join(differing).replace(" there and ", " in vanilla training and ")
            raise UserError(f"name is 'vanilla', but {told}; name the method by --config.name, or take its preset")

    def run(self, stage: str = "all") -> None:
        """Runs one stage, or all of them."""
        if stage in ("all", "train", "evaluate"):
            workdirs.check_seeds_alike(self.workdir, self.config)
        if stage == "all":
            # What is missing can be fetched, and a mistake mended, before hours of training.
            predictions.absent(self.config, self.dataset, self.shifted)
        for name in STAGES if stage == "all" else (stage,):
            preemption.stop_if_asked(f"the stage {name}")
            getattr(self, name)()
            hosts.wait(f"the end of {name}")

    def vanilla(self) -> None:
        """Trains the runs that are ranked, if they are vanilla runs of this workdir."""
        runs_ = (workdirs.source_run(source) for source in self._ranking_sources())
        seeds = tuple(seed for name, seed in filter(None, runs_) if name == "vanilla")
        self._train(vanilla_config(self.config), seeds)

    def rank(self) -> None:
        """Ranks every image of the three splits by the source runs' weights, or by a control."""
        for source in self._ranking_sources():
            self._rank(self.config, source)

    def _ranking_sources(self) -> list[str]:
        """Each once, in the order of the seeds."""
        by_seed = (workdirs.ranking_sources(self.config, seed) for seed in self.config.seeds)
        return list(dict.fromkeys(source for sources in by_seed for source in sources))

    def _rank(
        self, config: ml_collections.ConfigDict, source: str, splits: tuple[str, ...] = ("train", "validation", "test")
    ) -> None:
        ranking = config.ranking
        directory = self.workdir.ranking(source, ranking.by, ranking.folder)
        run = workdirs.source_run(source)
        if not run:
            logger.info("rank: using the ranking in %s", directory)
            return
        if ranking.by == "random":
            workdirs.claim(directory, workdirs.ranking_identity(config, source), config)
            for name in splits:
                robustness.rank_at_random(name, self.splits[name], directory=directory, num_subsets=ranking.num_subsets)
            return
        source_dir = self.workdir.run(*run)
        of_source = workdirs.stored(source_dir)["identity"]
        trained.check_single(source_dir)
        if not trained.is_finished(source_dir, workdirs.stored_config(source_dir)):
            raise UserError(f"{source_dir} is not trained to its end; run --stage=vanilla first")
        variables = trained.final_variables(source_dir)
        # The weights that are attacked are part of what makes a ranking.
        of_source["weights"] = fingerprint(variables)
        workdirs.claim(directory, workdirs.ranking_identity(config, source) | {"source_run": of_source}, config)
        wanted = [name for name in splits if not (directory / f"{name}.npz").exists()]
        if not wanted:
            logger.info("rank: %s is complete", directory)
            return
        model = trained.build_ranked(config)
        if ranking.by == "attack":
            robustness.check(model, variables, {name: self.splits[name] for name in wanted})
        ranker = robustness.Ranker(
            model,
            ranking,
            attack=ranking.attack,
            num_subsets=ranking.num_subsets,
            batch_size=config.run.ranking_batch_size,
            replicas=self.replicas.own,
        )
        variables = self.replicas.own.replicate(variables)
        with lease.held(directory):
            for name in wanted:
                preemption.stop_if_asked(f"ranking {name}")
                ranker.rank(name, variables, self.splits[name], directory)

    def train(self) -> None:
        """Trains the config's method with each of its seeds; of an ensemble of single runs what is missing of them."""
        if self.config.ensemble.of:
            self._train(*self._members())
        else:
            self._train(self.config, self.config.seeds)

    def _members(self) -> tuple[ml_collections.ConfigDict, tuple[int, ...]]:
        """The config and the seeds of the single runs that an ensemble averages."""
        config, count = self.config, self.config.ensemble.members
        return member_config(config), tuple(m for seed in config.seeds for m in models.member_seeds(seed, count))

    def evaluate(self) -> None:
        """Stores the predictions of the method's runs and the report's gallery, and computes all metrics."""
        absent = self.predict()
        if self.config.evaluation.subsets_of == "own":
            self._rank_own()
        gallery.write(self.workdir, self.config, self.dataset, self.splits["train"], self.replicas.own)
        if hosts.is_first():
            files.write_json(self.workdir.evaluation, summary.summarize(self.workdir, self.config, absent))

    def predict(self) -> dict[str, dict[str, str]]:
        """Stores the predictions of the method's runs; returns what data could not be read (`predictions.absent`)."""
        config, shifted = self.config, self.shifted
        absent = predictions.absent(config, self.dataset, shifted)
        if not hosts.alike(absent):
            raise UserError("run.data_dir or run.published_dir holds other data sets for one process than for another")
        left_out = predictions.names_of(config.evaluation, absent)
        if not config.ensemble.of:
            self._predict(config, config.seeds, shifted, left_out)
            return absent
        of_members, seeds_of_members = self._members()
        self._predict(of_members, seeds_of_members, shifted, left_out)
        incomplete = {}
        for seed in config.seeds:
            directory = self.workdir.predictions(config.name, seed)
            of_seed = models.member_seeds(seed, config.ensemble.members)
            folders = [self.workdir.predictions(of_members.name, member) for member in of_seed]
            # There is nothing of its own in the run's folder, but what has no such folder is not in the report.
            identity = self._run_identity(config, seed)
            workdirs.claim(self.workdir.run(config.name, seed), identity, config)
            weights = [workdirs.stored(folder)["identity"]["weights"] for folder in folders]
            workdirs.claim_anew(directory, identity | {"weights": weights}, config)
            missing = predictions.missing(directory, config.evaluation) - left_out
            for name in missing - (compacted := predictions.compacted_names(config.evaluation)):
                if hosts.is_first():
                    predictions.join(folders, directory, name)
            if missing & compacted:
                runs_ = [self.workdir.run(of_members.name, member) for member in of_seed]
                incomplete[directory] = trained.stacked_variables(runs_)
        self._predict_missing(lockstep_config(config), incomplete, shifted, left_out)
        return absent

    def _predict(self, config, seeds: tuple[int, ...], shifted: shift_sources.ShiftSource, left_out: set[str]) -> None:
        incomplete = {}
        for seed in seeds:
            run_dir, directory = self.workdir.run(config.name, seed), self.workdir.predictions(config.name, seed)
            identity = self._run_identity(config, seed)
            if run_dir.exists():
                workdirs.claim(run_dir, identity, config)
            if not trained.is_finished(run_dir, config):
                raise UserError(f"{run_dir} is not trained to its end; run --stage=train first")
            variables = trained.final_variables(run_dir)
            workdirs.claim_anew(directory, identity | {"weights": fingerprint(variables)}, config)
            if predictions.missing(directory, config.evaluation) - left_out:
                incomplete[directory] = variables
        self._predict_missing(config, incomplete, shifted, left_out)

    def _run_identity(self, config: ml_collections.ConfigDict, seed: int) -> dict:
        """That of a run, which may be evaluated on other devices than it was trained on."""
        run_dir, now = self.workdir.run(config.name, seed), len(self.replicas)
        there = workdirs.stored(run_dir)["identity"] if (run_dir / "config.json").exists() else {}
        return workdirs.run_identity(config, seed, there.get("num_devices", now))

    def _predict_missing(
        self, config, incomplete: dict, shifted: shift_sources.ShiftSource, left_out: set[str]
    ) -> None:
        """Predicts what folders lack, given the variables of the run, or of all members, that each belongs to."""
        if not incomplete:
            return
        logits_fn = trained.member_logits_fn(config)
        mapped = self.replicas.own.map(
            lambda variables, batch: {"logits": jnp.moveaxis(logits_fn(variables, batch["image"]), 0, 1)},
            in_axes=(None, 0),
            out_axes=0,
        )
        incomplete = {directory: self.replicas.own.replicate(variables) for directory, variables in incomplete.items()}
        sets = self.dataset, shifted, self.splits
        with contextlib.ExitStack() as leases:
            for directory in incomplete:
                leases.enter_context(lease.held(directory))
            predictions.predict(config.name, mapped, incomplete, config, *sets, self.replicas.own, left_out)

    def _rank_own(self) -> None:
        """Ranks the test images by each run's own weights; an ensemble cannot be attacked and goes without."""
        config = ml_collections.ConfigDict(self.config.to_dict())
        if config.ensemble.of or config.ensemble.members > 1:
            return
        # Also of controls: a ranking of robustness is asked for.
        config.ranking.update(by="attack", folder="")
        for seed in config.seeds:
            self._rank(config, f"{config.name}/seed_{seed}", ("test",))

    def report(self) -> None:
        """Writes the page, its figures and tables from the stored files, and prints the table."""
        if not hosts.is_first():
            return
        from arada import reporting  # matplotlib: a second that other stages need not wait

        page = reporting.write_report(self.workdir.path)
        print(reporting.terminal_table(files.read_json(self.workdir.evaluation)))
        print(f"Report: {page}")

    def _train(self, config: ml_collections.ConfigDict, seeds: tuple[int, ...]) -> None:
        trainer = None
        workdirs.check_seeds_alike(self.workdir, config)
        for seed in seeds:
            run_dir = self.workdir.run(config.name, seed)
            workdirs.claim(run_dir, workdirs.run_identity(config, seed, len(self.replicas)), config)
            if trained.is_finished(run_dir, config):
                logger.info("%s/seed_%d is trained", config.name, seed)
                continue
            preemption.stop_if_asked(f"training {config.name}/seed_{seed}")
            trainer = trainer or runs.Trainer(config, self.workdir, self.splits, self.replicas)
            trainer.train(seed)


def vanilla_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The same experiment with one-hot labels: what is ranked, and what everything is compared with."""
    vanilla = ml_collections.ConfigDict(config.to_dict())
    vanilla.name = "vanilla"
    vanilla.soft_labels.update(num_subsets=1, epsilon=0.0, adaptive=False)
    vanilla.method.name = "cross_entropy"
    vanilla.ensemble.update(members=1, of="", ranks="shared")
    return vanilla


def member_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config of the single runs of an ensemble: that of their own preset."""
    member = ml_collections.ConfigDict(config.to_dict())
    member.name = config.ensemble.of
    member.ensemble.update(members=1, of="")
    return member


def lockstep_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config of an ensemble of single runs as if its members had been trained in lockstep."""
    lockstep = ml_collections.ConfigDict(config.to_dict())
    lockstep.ensemble.of = ""
    return lockstep
