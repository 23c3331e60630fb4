"""From the folder of a run back to its classifier."""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import ml_collections
import numpy as np
from etils import epath

from arada import models
from arada.data.splits import empty_moments
from arada.errors import UserError
from arada.runs import workdir as workdirs
from arada.runs.identity import initial_run
from arada.runtime import files
from arada.training import lockstep, optimizers
from arada.training.checkpoints import Checkpoints
from arada.training.state import TrainState, fingerprint, init_state

# By `config.run.members`: the argument `unrolled` of `arada.models.ensemble.over_members`.
UNROLLED = {"auto": None, "stacked": False, "unrolled": True}


def build_model(config: ml_collections.ConfigDict, **fields) -> nn.Module:
    """The network of a config; `fields` replace fields of `config.model`."""
    return models.build(num_classes=config.data.num_classes, **(config.model.to_dict() | fields))


def build_ranked(config: ml_collections.ConfigDict) -> nn.Module:
    """The network for attacks: in float32, because bfloat16 cannot separate the logits of two close classes."""
    return build_model(config, **({"dtype": "float32"} if "dtype" in config.model else {}))


def num_members(config: ml_collections.ConfigDict) -> int:
    """The number of networks that one run of this config trains: 1, or the members of an ensemble in lockstep."""
    # Older runs have no such fields.
    ensemble = config.get("ensemble")
    return ensemble.members if ensemble and not ensemble.of else 1


def network_seeds(config: ml_collections.ConfigDict, seed: int) -> Sequence[int]:
    """The seeds of the networks that one run of this config trains."""
    count = num_members(config)
    return models.member_seeds(seed, count) if count > 1 else (seed,)


def check_known(run_dir: epath.Path) -> None:
    """Raises UserError if the run has a network that no file has registered in this program."""
    stored = workdirs.stored(run_dir)
    name = stored["config"]["model"]["name"]
    if name not in models.BY_NAME:
        file = stored["made_with"].get("registered", {}).get(f"model.name {name!r}", "a config file")
        raise UserError(
            f"{run_dir} has the network {name!r}, which {file} registers; load that file first, such as by "
            f"runpy.run_path({file!r})"
        )


def unrolled(config: ml_collections.ConfigDict) -> bool | None:
    """Whether the members of a run are computed one after the other; None if the platform decides."""
    return UNROLLED[config.run.get("members", "auto")]


def check_single(run_dir: epath.Path) -> None:
    """Raises UserError if the run is an ensemble's: attacks take one network."""
    ensemble = workdirs.stored_config(run_dir).get("ensemble")
    if ensemble and (ensemble.of or ensemble.members > 1):
        raise UserError(f"{run_dir} is an ensemble, but attacks take one network; name a single run: vanilla/seed_0")


# The precision of matrix products and convolutions outside training. A GPU's default takes float32 as TF32, with 10
# bits of mantissa, a TPU's as bfloat16, with 7; confidences would move in the third digit. Networks of dtype bfloat16
# stay so.
PRECISION = "float32"


def _precisely(f: Callable) -> Callable:
    """`f` at `PRECISION`."""

    @functools.wraps(f)
    def call(*args):
        with jax.default_matmul_precision(PRECISION):
            return f(*args)

    return call


def logits_fn(config: ml_collections.ConfigDict) -> Callable:
    """The classifier of a run, (variables, images) -> logits [B, Z]; for an ensemble, the log of its mean prediction.

    It computes at `PRECISION`.
    """
    model, count = build_model(config), num_members(config)
    if count == 1:
        return _precisely(models.logits_fn(model))
    logits_fn = models.member_logits_fn(model, count, unrolled=unrolled(config))
    return _precisely(lambda variables, images: models.mean_prediction(logits_fn(variables, images)))


def member_logits_fn(config: ml_collections.ConfigDict) -> Callable:
    """The members of a run as (variables, images) -> logits [M, B, Z], M = 1 for a single model."""
    model, count = build_model(config), num_members(config)
    if count > 1:
        return _precisely(models.member_logits_fn(model, count, unrolled=unrolled(config)))
    single = models.logits_fn(model)
    return _precisely(lambda variables, images: single(variables, images)[None])


def steps_per_epoch(config: ml_collections.ConfigDict) -> int:
    """Full batches in the training split."""
    return config.data.num_train // config.training.batch_size


def total_steps(config: ml_collections.ConfigDict) -> int:
    """Steps of a whole run."""
    return config.training.epochs * steps_per_epoch(config)


def state_shapes(config: ml_collections.ConfigDict) -> TrainState:
    """A run's state as `jax.ShapeDtypeStruct`s: shapes and dtypes, nothing computed."""
    image_shape = tuple(config.data.image_shape)
    optimizer = optimizers.build(config.optimizer, steps_per_epoch(config))
    normalization = empty_moments(config.training.normalization, image_shape)

    def state() -> TrainState:
        state = init_state(build_model(config), optimizer, normalization, image_shape, jax.random.key(0))
        return lockstep.stack([state] * num_members(config))

    return jax.eval_shape(state)


def is_finished(run_dir: epath.Path, config: ml_collections.ConfigDict) -> bool:
    """Whether the run's last checkpoint is from its last step; imported weights need no steps."""
    if not (run_dir / "checkpoints").exists():
        return False
    if workdirs.is_imported(run_dir):
        config = workdirs.stored_config(run_dir)
    with Checkpoints(run_dir / "checkpoints", create=False) as checkpoints:
        return checkpoints.latest_step() == total_steps(config)


def load(run_dir: epath.PathLike) -> tuple[Callable, dict]:
    """A trained classifier as (logits_fn, variables): logits_fn(variables, images) -> logits [B, Z].

    Images are uint8, or float in [0, 1]; the normalisation is inside. The weights come from the newest checkpoint
    that can be read. An ensemble has the logarithm of its mean prediction for logits; its members' variables are
    stacked. Raises UserError if `run_dir` is not the folder of a run with a checkpoint.
    """
    run_dir = files.absolute(run_dir)
    config = workdirs.stored_config(run_dir)
    check_known(run_dir)
    ensemble = config.get("ensemble")
    if not (ensemble and ensemble.of):
        return logits_fn(config), _newest_state(run_dir).variables
    seeds = models.member_seeds(workdirs.stored(run_dir)["identity"]["seed"], ensemble.members)
    runs = [run_dir.parent.parent / ensemble.of / f"seed_{seed}" for seed in seeds]
    # Once loaded, they work like members trained in lockstep.
    ensemble.of = ""
    return logits_fn(config), stacked_variables(runs)


def stacked_variables(run_dirs: Sequence[epath.Path]) -> dict:
    """The variables of several runs stacked like members in lockstep: from the newest readable checkpoint of each."""
    return lockstep.stack([_newest_state(run_dir) for run_dir in run_dirs]).variables


def initial_dir(workdir: workdirs.Workdir, config: ml_collections.ConfigDict, seed: int) -> epath.Path:
    """The folder of the run that a network with `seed` starts from (`training.init_from`). Raises UserError."""
    name, source_seed = initial_run(config, seed) or (config.training.init_from, seed)
    run_dir, prefix = workdir.run(name, source_seed), f"training.init_from names {name}/seed_{source_seed}"
    if not (run_dir / "config.json").exists():
        there = ", ".join(f"{name}/seed_{seed}" for name, seed in workdir.runs()) or "none"
        raise UserError(f"{prefix}, but {workdir.path} has no such run (there: {there}); train or import it first")
    source = workdirs.stored_config(run_dir)
    if not is_finished(run_dir, source):
        raise UserError(f"{prefix}, which has not finished training; run its own command first")
    if num_members(source) > 1 or source.get("ensemble", {}).get("of"):
        raise UserError(f"{prefix}, which is an ensemble; name a single run")
    ours, theirs = config.training.normalization, source.training.normalization
    if ours != theirs:
        raise UserError(f"{prefix}, whose training.normalization is {theirs!r}, not {ours!r}; set it to the same")
    return run_dir


def initial_weights(workdir: workdirs.Workdir, config: ml_collections.ConfigDict, seed: int) -> int:
    """The fingerprint of the weights that a run starts from, for an ensemble in lockstep, of all members.

    A finished run no longer needs them: its own record has the fingerprint.
    """
    run_dir = workdir.run(config.name, seed)
    if is_finished(run_dir, config):
        return workdirs.stored(run_dir)["identity"].get("init_weights")
    seeds = network_seeds(config, seed)
    return fingerprint([final_variables(initial_dir(workdir, config, member)) for member in seeds])


def final_variables(run_dir: epath.Path) -> dict:
    """The variables of a run's last step only. Raises UserError if its checkpoint is broken."""
    config = workdirs.stored_config(run_dir)
    check_known(run_dir)
    with _checkpoints(run_dir) as checkpoints:
        state = checkpoints.restore_state(_template(config))
        if int(state.step) != total_steps(config):
            checkpoints.drop_after(int(state.step))
            raise UserError(f"the last checkpoint of {run_dir} cannot be read; the same command writes it again")
    return state.variables


def final_fingerprint(run_dir: epath.Path) -> int:
    """The fingerprint of a run's `final_variables`, by the checkpoint's record if it has one, which takes no reading of
    weights. Raises UserError."""
    steps = total_steps(workdirs.stored_config(run_dir))
    with _checkpoints(run_dir) as checkpoints:
        recorded = checkpoints.weights(steps) if checkpoints.latest_step() == steps else None
    return fingerprint(final_variables(run_dir)) if recorded is None else recorded


def _newest_state(run_dir: epath.Path) -> TrainState:
    with _checkpoints(run_dir) as checkpoints:
        return checkpoints.restore_state(_template(workdirs.stored_config(run_dir)))


def _checkpoints(run_dir: epath.Path) -> Checkpoints:
    if not (run_dir / "checkpoints").exists():
        raise UserError(f"there is no checkpoint in {run_dir}; train the run first")
    return Checkpoints(run_dir / "checkpoints", create=False)


def _template(config: ml_collections.ConfigDict) -> TrainState:
    """Zeros in the shape of a run's state."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state_shapes(config))
