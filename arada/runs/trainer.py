"""One training run: from a config to trained weights."""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from clu import parameter_overview

from arada import methods, metrics, models
from arada.data import Examples, moments
from arada.data.cache import cached
from arada.runs import ranking as rankings
from arada.runs import trained
from arada.runs import workdir as workdirs
from arada.runs.identity import (
    in_one_subset,
    ranking_sources,
    refreshes,
    refreshes_after,
    run_identity,
    uses_precomputed,
)
from arada.runs.ranks import stored_subsets
from arada.runtime import backend, lease
from arada.training import lockstep, loop, optimizers, profile, streaming
from arada.training import step as steps
from arada.training.augmentation import augment
from arada.training.checkpoints import Checkpoints
from arada.training.logs import open_writer
from arada.training.replication import Replicas
from arada.training.state import Supervision, TrainState, fingerprint, init_state

logger = logging.getLogger(__name__)


class Trainer:
    """Trains the runs of one config. Programs are compiled once for all seeds."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: workdirs.Workdir,
        splits: Mapping[str, Examples],
        replicas: Replicas,
    ):
        self._config, self._workdir, self._splits, self._replicas = config, workdir, splits, replicas
        _warn_of_old_statistics(config)
        self._validation = cached(splits["validation"])
        self._model = trained.build_model(config)
        self._optimizer = optimizers.build(config.optimizer, trained.steps_per_epoch(config))
        shapes = jax.eval_shape(self._model.init, jax.random.key(0), np.zeros((1, *config.data.image_shape)))
        logger.info("%s", parameter_overview.get_parameter_overview(shapes["params"], include_stats=False))
        self._normalization = moments(splits["train"], config.training.normalization)  # type: ignore[arg-type]
        self._method = methods.build(config)
        self._members = trained.num_members(config)
        self._train_step = mapped_step(config, replicas)
        self._validation_step = replicas.own.map(
            steps.validation_step(trained.logits_fn(config)), in_axes=(None, 0), out_axes=0
        )
        if refreshes(config):
            self._ranker = rankings.Ranker(
                trained.build_ranked(config),
                config.ranking,
                attack=config.ranking.refresh_attack or config.ranking.attack,
                num_subsets=config.soft_labels.num_subsets,
                batch_size=config.run.ranking_batch_size,
                replicas=replicas.own,
            )

    def train(self, seed: int) -> None:
        """Trains with `seed` to the end, from the run's last checkpoint if there is one.

        Algorithm 1: after every epoch the method learns from the validation set's confidence and accuracy.
        The weights of the final epoch are the result; nothing is selected.
        """
        config, name = self._config, f"{self._config.name}/seed_{seed}"
        run_dir = self._workdir.run(config.name, seed)
        state, step_key, train_split = self._initial_state(seed)
        supervision = self._initial_supervision(seed)
        with lease.held(run_dir), Checkpoints(run_dir / "checkpoints") as checkpoints:
            restored = checkpoints.restore(jax.device_get(state), supervision)
            state, supervision, window = restored or (state, supervision, [])
            with (
                backend.fitting("lower training.batch_size, or raise training.accumulate"),
                # Rows that were logged later, also in an open window, are logged again.
                open_writer(run_dir, int(state.step) - len(window)) as writer,
                profile.traced(self._train_step, config.run.profile, run_dir / "profile") as train_step,
            ):
                loop.train(
                    name,
                    train_split,
                    program=loop.Program(train_step, self._replicas),
                    start=loop.Start(state, supervision, step_key, window),
                    plan=loop.Plan(
                        epochs=config.training.epochs,
                        batch_size=config.training.batch_size,
                        seed=seed,
                        log_every_steps=config.run.log_every_steps,
                        checkpoint_every_steps=config.run.checkpoint_every_steps,
                    ),
                    after_epoch=functools.partial(self._after_epoch, name, seed),
                    records=loop.Records(writer, checkpoints, {"config": config.to_json(), "seed": seed}),
                )

    def _initial_state(self, seed: int) -> tuple[TrainState, jax.Array, Examples | lockstep.MemberOrders]:
        """Fresh weights or the weights of `training.init_from`, the key of the steps, and the training images in the
        order of the seed (of each member's)."""

        def initial(seed: int) -> tuple[TrainState, jax.Array]:
            init_key, step_key = jax.random.split(jax.random.key(seed))
            image_shape = tuple(self._config.data.image_shape)
            state = init_state(self._model, self._optimizer, self._normalization, image_shape, init_key)
            if self._config.training.init_from:
                source = trained.initial_dir(self._workdir, self._config, seed)
                state = dataclasses.replace(state, **jax.tree.map(jnp.asarray, trained.final_variables(source)))
            return state, step_key

        if self._members == 1:
            return *initial(seed), self._splits["train"]
        states, keys = zip(*map(initial, models.member_seeds(seed, self._members)), strict=True)
        return lockstep.stack(states), jnp.stack(keys), lockstep.MemberOrders(self._splits["train"], self._members)

    def _initial_supervision(self, seed: int) -> Supervision:
        num_subsets, ranking = self._config.soft_labels.num_subsets, self._config.ranking
        if uses_precomputed(self._config):
            sources = ranking_sources(self._config, seed)
            directories = [self._workdir.ranking(source, ranking.by, ranking.folder) for source in sources]
            for source, directory in zip(sources, directories, strict=True):
                workdirs.check_ranked_as(directory, self._config, source)
            subsets = [
                np.stack([stored_subsets(path, name, self._splits[name], num_subsets) for path in directories])
                for name in rankings.TRAINED_ON
            ]
            if len(sources) == 1:
                subsets = [subset for (subset,) in subsets]
        else:
            subsets = [np.zeros(len(self._splits[name]), np.int32) for name in rankings.TRAINED_ON]
        return Supervision(jax.device_get(self._method.init()), *subsets)

    def _after_epoch(
        self, name: str, seed: int, epoch: int, state: TrainState, supervision: Supervision
    ) -> tuple[Supervision, dict[str, float]]:
        """Validates, updates the method, and ranks again if the config says so."""
        config = self._config
        outputs = streaming.map_split(
            self._validation_step,
            state.variables,
            self._validation,
            batch_size=config.run.evaluation_batch_size,
            replicas=self._replicas.own,
        )
        confidence, correct = outputs["confidence"], outputs["correct"]
        scalars: dict[str, Any] = {
            "validation/accuracy": np.mean(correct, dtype=np.float64),
            "validation/confidence": np.mean(confidence, dtype=np.float64),
            "validation/nll": np.mean(outputs["loss"], dtype=np.float64),
            "validation/ece": metrics.binned_error(confidence, correct, num_bins=config.evaluation.num_bins),
        }
        num_subsets, unranked = config.soft_labels.num_subsets, in_one_subset(config, epoch)

        def means(values):
            if unranked:
                return np.full(num_subsets, np.mean(values, dtype=np.float64))
            # If members have their own ranks, each also has its own subsets of validation images.
            ranks = np.atleast_2d(supervision.validation_subset)
            return np.mean([metrics.subset_means(values, subset, num_subsets) for subset in ranks], axis=0)

        validation = methods.Validation(confidence, correct, means(confidence), means(correct))
        by_subset = {
            "confidence": validation.subset_confidence,
            "accuracy": validation.subset_accuracy,
            "gap": validation.subset_confidence - validation.subset_accuracy,
        }
        for quantity, values in by_subset.items():
            scalars |= {f"validation/{quantity}/subset_{r:02}": value for r, value in enumerate(values)}
        scalars |= self._method.scalars(supervision.learnt)
        learnt = jax.device_get(self._method.update(supervision.learnt, validation, epoch))
        supervision = dataclasses.replace(supervision, learnt=learnt)
        if line := self._method.describe(learnt, epoch):
            logger.info("%s: %s", name, line)
        if refreshes_after(config, epoch):
            supervision, changed = self._refresh(name, seed, epoch, state, supervision)
            scalars |= changed
        return supervision, {key: float(value) for key, value in scalars.items()}

    def _refresh(
        self, name: str, seed: int, epoch: int, state: TrainState, supervision: Supervision
    ) -> tuple[Supervision, dict[str, float]]:
        """Ranks by the run's current weights: images change their subset, a subset keeps its soft label.

        A killed refresh continues with the missing batches, because the run returns here with the same weights.
        """
        directory = self._workdir.refreshed_ranking(self._config.name, seed, epoch + 1)
        identity = run_identity(self._config, seed, len(self._replicas))
        # Results computed with other weights (an earlier run, another number of devices) are deleted.
        identity |= {"weights": fingerprint(state.variables)}
        workdirs.claim_again(directory, identity, self._config, self._replicas.cpu_kernels)
        logger.info("%s: ranking again after epoch %d", name, epoch + 1)
        scalars, subsets = {}, {}
        for split, before in (("train", supervision.train_subset), ("validation", supervision.validation_subset)):
            ranking = self._ranker.rank(split, state.variables, self._splits[split], directory)
            subsets[split] = ranking.subsets(self._config.soft_labels.num_subsets)
            if not in_one_subset(self._config, epoch):
                changed = subsets[split] != before
                scalars[f"ranking/changed_{split}"] = np.mean(changed)
                logger.info("%s: %d of %d %s images change their subset", name, changed.sum(), len(changed), split)
        supervision = dataclasses.replace(
            supervision, train_subset=subsets["train"], validation_subset=subsets["validation"]
        )
        return supervision, scalars


def _warn_of_old_statistics(config: ml_collections.ConfigDict) -> None:
    """Warns where batch norm's running statistics, which validation uses, average more steps than an epoch has."""
    # Registered networks may have no batch norm.
    momentum, steps = config.model.get("batch_norm_momentum", 0.0), trained.steps_per_epoch(config)
    averaged = round(1 / (1 - momentum), 6)
    if averaged > steps:
        logger.warning(
            "model.batch_norm_momentum is %g: batch norm averages the last %.0f steps, but an epoch has %d, so "
            "validation sees statistics of older weights, and soft labels learn from it. Set it to %g or less",
            momentum,
            averaged,
            steps,
            math.floor(1000 * (1 - 1 / steps)) / 1000,
        )


def mapped_step(config: ml_collections.ConfigDict, replicas: Replicas) -> Callable:
    """A run's train step over all devices: step(state, batch, learnt, key) -> (state, metrics), see `train_step`.

    For an ensemble in lockstep it trains all members. It donates the old state's buffers.
    """
    step = steps.train_step(
        trained.build_model(config),
        methods.build(config),
        functools.partial(augment, config.training.augmentation),
        optimizers.build(config.optimizer, trained.steps_per_epoch(config)),
        functools.partial(optimizers.l2_penalty, coefficient=config.optimizer.l2, targets=config.optimizer.l2_on),
        accumulate=config.training.accumulate,
    )
    if trained.num_members(config) > 1:
        step = lockstep.lockstep(step, trained.num_members(config), unrolled=trained.unrolled(config))
    return replicas.map(step, in_axes=(None, 0, None, None), out_axes=(None, None), donate_argnums=(0,))
