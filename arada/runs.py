"""One training run: from a config to trained weights."""

import functools
import logging

import jax
import ml_collections
import numpy as np
from clu import parameter_overview

from arada import methods, robustness, soft_labels, streaming, trained
from arada import workdir as workdirs
from arada.data import Split, moments
from arada.data.augmentation import augment
from arada.evaluation import metrics
from arada.training import loop, optimizers
from arada.training import step as steps
from arada.training.checkpoints import Checkpoints
from arada.training.replication import Replicas
from arada.training.state import Supervision, TrainState, init_state

logger = logging.getLogger(__name__)


class Trainer:
    """Trains the runs of one config. What is compiled is compiled once for all seeds."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: workdirs.Workdir,
        splits: dict[str, Split],
        replicas: Replicas,
    ):
        self._config, self._workdir, self._splits, self._replicas = config, workdir, splits, replicas
        self._model = trained.build_model(config)
        self._optimizer = optimizers.build(config.optimizer, trained.steps_per_epoch(config))
        shapes = jax.eval_shape(self._model.init, jax.random.key(0), np.zeros((1, *config.data.image_shape)))
        logger.info("%s", parameter_overview.get_parameter_overview(shapes["params"], include_stats=False))
        self._normalization = moments(splits["train"], config.training.normalization)
        train_step = steps.train_step(
            self._model,
            methods.soft_label_cross_entropy,
            functools.partial(augment, config.training.augmentation),
            self._optimizer,
            functools.partial(optimizers.l2_penalty, coefficient=config.optimizer.l2, targets=config.optimizer.l2_on),
        )
        self._train_step = replicas.map(
            train_step, in_axes=(None, 0, None, None), out_axes=(None, None), donate_argnums=(0,)
        )
        self._validation_step = replicas.map(steps.validation_step(self._model), in_axes=(None, 0), out_axes=0)

    def train(self, seed: int) -> None:
        """Trains with `seed` to the end, from the run's last checkpoint if there is one.

        Algorithm 1: after every epoch the soft labels follow the validation set's confidence and accuracy by subset.
        The weights of the final epoch are the result; nothing is selected.
        """
        from arada.training.logs import open_writer  # imports TensorFlow: seconds that other stages need not wait

        config, name = self._config, f"{self._config.name}/seed_{seed}"
        run_dir = self._workdir.run(config.name, seed)
        init_key, step_key = jax.random.split(jax.random.key(seed))
        state = init_state(self._model, self._optimizer, self._normalization, tuple(config.data.image_shape), init_key)
        supervision = self._initial_supervision()
        with Checkpoints(run_dir / "checkpoints") as checkpoints:
            restored = checkpoints.restore(jax.device_get(state), supervision)
            if restored is not None:
                state, supervision = restored
            with open_writer(run_dir, int(state.step)) as writer:
                loop.train(
                    name,
                    self._train_step,
                    state,
                    supervision,
                    self._splits["train"],
                    replicas=self._replicas,
                    epochs=config.training.epochs,
                    batch_size=config.training.batch_size,
                    seed=seed,
                    key=step_key,
                    after_epoch=functools.partial(self._after_epoch, name),
                    writer=writer,
                    checkpoints=checkpoints,
                    log_every_steps=config.run.log_every_steps,
                    checkpoint_every_steps=config.run.checkpoint_every_steps,
                    run={"config": config.to_json(), "seed": seed},
                )

    def _initial_supervision(self) -> Supervision:
        num_subsets = self._config.soft_labels.num_subsets
        if num_subsets == 1:
            subsets = [np.zeros(len(self._splits[name]), np.int32) for name in ("train", "validation")]
        else:
            directory = self._workdir.ranking(self._config.ranking.source)
            subsets = [
                robustness.subsets(directory, name, self._splits[name], num_subsets) for name in ("train", "validation")
            ]
        labels = soft_labels.init(num_subsets, self._config.data.num_classes, self._config.soft_labels.epsilon)
        return Supervision(jax.device_get(labels), *subsets)

    def _after_epoch(
        self, name: str, epoch: int, state: TrainState, supervision: Supervision
    ) -> tuple[Supervision, dict[str, float]]:
        """Validates, and where the method is adaptive updates the soft labels by eq. (3)."""
        config = self._config
        of_images = streaming.over(
            self._validation_step,
            state.variables,
            self._splits["validation"],
            batch_size=config.run.evaluation_batch_size,
            replicas=self._replicas,
        )
        confidence, correct = of_images["confidence"], of_images["correct"]
        num_subsets, subset = config.soft_labels.num_subsets, supervision.validation_subset
        by_subset = {
            "validation/confidence": metrics.subset_means(confidence, subset, num_subsets),
            "validation/accuracy": metrics.subset_means(correct, subset, num_subsets),
            "soft_label": np.asarray(supervision.soft_labels.p_correct),
        }
        scalars = {
            "validation/accuracy": np.mean(correct, dtype=np.float64),
            "validation/confidence": np.mean(confidence, dtype=np.float64),
            "validation/nll": np.mean(of_images["loss"], dtype=np.float64),
            "validation/ece": metrics.binned_error(confidence, correct, num_bins=config.evaluation.num_bins),
        }
        for quantity, values in by_subset.items():
            scalars |= {f"{quantity}/subset_{r:02}": value for r, value in enumerate(values)}
        if config.soft_labels.adaptive:
            updated = soft_labels.update(
                supervision.soft_labels,
                by_subset["validation/confidence"],
                by_subset["validation/accuracy"],
                learning_rate_at(config.soft_labels.alpha, epoch),
            )
            supervision = supervision.replace(soft_labels=jax.device_get(updated))
            table = " ".join(f"{p:.3f}" for p in supervision.soft_labels.p_correct)
            logger.info("%s: soft labels after epoch %d, least robust first: %s", name, epoch + 1, table)
        return supervision, {key: float(value) for key, value in scalars.items()}


def learning_rate_at(alpha: tuple[tuple[int, float], ...], epoch: int) -> float:
    """The paper's alpha at a 0-based epoch, from ((first epoch, alpha), ...), the first of them 0."""
    return [value for first, value in alpha if first <= epoch][-1]
