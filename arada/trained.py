"""From the folder of a run back to its classifier."""

from collections.abc import Callable

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from etils import epath

from arada import files, models
from arada import workdir as workdirs
from arada.data.splits import empty_moments
from arada.errors import UserError
from arada.training import optimizers
from arada.training.checkpoints import Checkpoints
from arada.training.state import TrainState, init_state


def build_model(config: ml_collections.ConfigDict) -> nn.Module:
    """The network of a config."""
    return models.build(num_classes=config.data.num_classes, **config.model)


def steps_per_epoch(config: ml_collections.ConfigDict) -> int:
    """Full batches in the training split."""
    return config.data.num_train // config.training.batch_size


def total_steps(config: ml_collections.ConfigDict) -> int:
    """Steps of a whole run."""
    return config.training.epochs * steps_per_epoch(config)


def is_finished(run_dir: epath.Path, config: ml_collections.ConfigDict) -> bool:
    """Whether the run's last checkpoint is that of its last step."""
    if not (run_dir / "checkpoints").exists():
        return False
    with Checkpoints(run_dir / "checkpoints", create=False) as checkpoints:
        return checkpoints.latest_step() == total_steps(config)


def load(run_dir: epath.PathLike) -> tuple[Callable, dict]:
    """A trained classifier as (logits_fn, variables): logits_fn(variables, images) -> logits [B, Z].

    Images are uint8, or float in [0, 1]; the normalisation is inside. The weights are those of the newest checkpoint
    that can be read. Raises UserError if `run_dir` is not the folder of a run with a checkpoint.
    """
    run_dir = files.absolute(run_dir)
    config = workdirs.stored_config(run_dir)
    with _checkpoints(run_dir) as checkpoints:
        state = checkpoints.restore_state(_template(config))
    return models.logits_fn(build_model(config)), state.variables


def final_variables(run_dir: epath.Path) -> dict:
    """The variables of a run's last step, and of no other. Raises UserError if its checkpoint is broken."""
    config = workdirs.stored_config(run_dir)
    with _checkpoints(run_dir) as checkpoints:
        state = checkpoints.restore_state(_template(config))
        if int(state.step) != total_steps(config):
            checkpoints.drop_after(int(state.step))
            raise UserError(f"the last checkpoint of {run_dir} cannot be read; the same command makes it anew")
    return state.variables


def _checkpoints(run_dir: epath.Path) -> Checkpoints:
    if not (run_dir / "checkpoints").exists():
        raise UserError(f"there is no checkpoint in {run_dir}; train the run first")
    return Checkpoints(run_dir / "checkpoints", create=False)


def _template(config: ml_collections.ConfigDict) -> TrainState:
    """Zeros in the shape of a run's state."""
    image_shape = tuple(config.data.image_shape)
    optimizer = optimizers.build(config.optimizer, steps_per_epoch(config))
    normalization = empty_moments(config.training.normalization, image_shape)
    shapes = jax.eval_shape(
        lambda: init_state(build_model(config), optimizer, normalization, image_shape, jax.random.key(0))
    )
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
