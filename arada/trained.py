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
from arada.training.state import init_state


def build_model(config: ml_collections.ConfigDict) -> nn.Module:
    """The network of a config."""
    return models.build(num_classes=config.data.num_classes, **config.model)


def steps_per_epoch(config: ml_collections.ConfigDict) -> int:
    """Full batches in the training split."""
    return config.data.num_train // config.training.batch_size


def is_finished(run_dir: epath.Path, config: ml_collections.ConfigDict) -> bool:
    """Whether the run's last checkpoint is that of its last step."""
    if not (run_dir / "checkpoints").exists():
        return False
    with Checkpoints(run_dir / "checkpoints", create=False) as checkpoints:
        return checkpoints.latest_step() == config.training.epochs * steps_per_epoch(config)


def load(run_dir: epath.PathLike) -> tuple[Callable, dict]:
    """A trained classifier as (logits_fn, variables): logits_fn(variables, images) -> logits [B, Z].

    Images are uint8, or float in [0, 1]; the normalisation is inside. Raises UserError if `run_dir` is not the folder
    of a run with a checkpoint.
    """
    run_dir = files.absolute(run_dir)
    config = workdirs.stored_config(run_dir)
    image_shape = tuple(config.data.image_shape)
    model = build_model(config)
    optimizer = optimizers.build(config.optimizer, steps_per_epoch(config))
    normalization = empty_moments(config.training.normalization, image_shape)
    template = jax.eval_shape(lambda: init_state(model, optimizer, normalization, image_shape, jax.random.key(0)))
    if not (run_dir / "checkpoints").exists():
        raise UserError(f"there is no checkpoint in {run_dir}; train the run first")
    with Checkpoints(run_dir / "checkpoints", create=False) as checkpoints:
        state = checkpoints.restore_state(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template))
    return models.logits_fn(model), state.variables
