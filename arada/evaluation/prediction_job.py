"""Stores the missing predictions of a method's runs: single runs, and ensembles that average them."""

import contextlib
from collections.abc import Mapping

import jax.numpy as jnp
import ml_collections
from etils import epath

from arada import models
from arada.errors import UserError
from arada.evaluation import predictions
from arada.runs import trained
from arada.runs import workdir as workdirs
from arada.runs.identity import lockstep_config, members_of
from arada.runtime import backend, hosts, lease
from arada.training.replication import Replicas


class PredictionJob:
    """The predictions of one config's runs in one workdir."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: workdirs.Workdir,
        sources: predictions.Sources,
        replicas: Replicas,
    ):
        self._config, self._workdir, self._sources, self._replicas = config, workdir, sources, replicas

    def predict(self) -> predictions.Absent:
        """Stores the predictions of the config's runs; returns the data that could not be read."""
        config = self._config
        absent = predictions.find_absent(config, self._sources)
        if not hosts.alike(absent):
            raise UserError(
                "processes see different data sets in run.data_dir or run.published_dir; use folders that all of them "
                "share"
            )
        left_out = absent.stored_names(config.evaluation)
        if config.ensemble.of:
            self._predict_ensemble(left_out)
        else:
            self._predict_runs(config, config.seeds, left_out)
        return absent

    def _predict_ensemble(self, left_out: set[str]) -> None:
        """Joins the logits of the members' runs; predictions stored as summaries need a pass over all members."""
        config, workdir = self._config, self._workdir
        members_config, all_seeds = members_of(config)
        self._predict_runs(members_config, all_seeds, left_out)
        incomplete = {}
        for seed in config.seeds:
            directory = workdir.predictions(config.name, seed)
            member_seeds = models.member_seeds(seed, config.ensemble.members)
            folders = [workdir.predictions(members_config.name, member) for member in member_seeds]
            # The run's folder holds nothing else, but runs without a folder are not in the report.
            identity = self._run_identity(config, seed)
            workdirs.claim(workdir.run(config.name, seed), identity, config)
            weights = [workdirs.stored(folder)["identity"]["weights"] for folder in folders]
            workdirs.claim_again(directory, identity | {"weights": weights}, config)
            missing = predictions.missing(directory, config.evaluation) - left_out
            for name in missing - (compacted := predictions.compacted_names(config.evaluation)):
                if hosts.is_first():
                    predictions.join(folders, directory, name)
            if missing & compacted:
                runs = [workdir.run(members_config.name, member) for member in member_seeds]
                incomplete[directory] = trained.stacked_variables(runs)
        self._predict_missing(lockstep_config(config), incomplete, left_out)

    def _predict_runs(self, config: ml_collections.ConfigDict, seeds: tuple[int, ...], left_out: set[str]) -> None:
        incomplete = {}
        for seed in seeds:
            run_dir, directory = self._workdir.run(config.name, seed), self._workdir.predictions(config.name, seed)
            identity = self._run_identity(config, seed)
            if run_dir.exists():
                workdirs.claim(run_dir, identity, config)
            if not trained.is_finished(run_dir, config):
                raise UserError(f"{run_dir} has not finished training; run --stage=train first")
            workdirs.claim_again(directory, identity | {"weights": trained.final_fingerprint(run_dir)}, config)
            if predictions.missing(directory, config.evaluation) - left_out:
                incomplete[directory] = trained.final_variables(run_dir)
        self._predict_missing(config, incomplete, left_out)

    def _run_identity(self, config: ml_collections.ConfigDict, seed: int) -> dict:
        """A run's identity. It may be evaluated on other devices than it was trained on."""
        return workdirs.identity_of_run(self._workdir.run(config.name, seed), config, seed, len(self._replicas))

    def _predict_missing(
        self, config: ml_collections.ConfigDict, incomplete: Mapping[epath.Path, dict], left_out: set[str]
    ) -> None:
        """Stores the missing predictions of folders, given each folder's variables: of a run, or of all members."""
        if not incomplete:
            return
        own, logits_fn = self._replicas.own, trained.member_logits_fn(config)
        mapped = own.map(
            lambda variables, batch: {"logits": jnp.moveaxis(logits_fn(variables, batch["image"]), 0, 1)},
            in_axes=(None, 0),
            out_axes=0,
        )
        incomplete = {directory: own.replicate(variables) for directory, variables in incomplete.items()}
        with contextlib.ExitStack() as leases:
            for directory in incomplete:
                leases.enter_context(lease.held(directory))
            leases.enter_context(backend.fitting("lower run.evaluation_batch_size"))
            predictions.predict(config.name, mapped, incomplete, config, self._sources, own, left_out)
