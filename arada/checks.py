"""Every mistake in a config that can be seen before any compute is spent, each as one clear line."""

import re

import ml_collections

from arada import attacks, files, models
from arada import workdir as workdirs
from arada.data import augmentation, shifts
from arada.errors import UserError
from arada.evaluation import metrics
from arada.training import optimizers
from arada.training.replication import MAPPINGS

# What makes no sense at 0 or below.
POSITIVE = (
    "data.num_train",
    "data.num_validation",
    "training.epochs",
    "training.batch_size",
    "optimizer.learning_rate",
    "ranking.cw.binary_search_steps",
    "ranking.cw.max_iterations",
    "ranking.fmn.steps",
    "evaluation.num_bins",
    "run.log_every_steps",
    "run.checkpoint_every_steps",
)
# Fewer validation images in a subset make its confidence and accuracy noise.
MIN_SUBSET = 10


def check_config(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises UserError naming the field, its value and the way out."""
    _one_of("model.name", config.model.name, models.BY_NAME)
    _one_of("model.batch_norm", config.model.batch_norm, ("global", "per_device"))
    _one_of("optimizer.name", config.optimizer.name, ("adam", "sgd"))
    _one_of("optimizer.l2_on", config.optimizer.l2_on, optimizers.L2_TARGETS)
    _one_of("training.augmentation", config.training.augmentation, augmentation.BY_NAME)
    _one_of("training.normalization", config.training.normalization, ("mean_image", "standardize"))
    _one_of("ranking.attack", config.ranking.attack, attacks.BY_NAME)
    _one_of("evaluation.variance_of", config.evaluation.variance_of, metrics.VARIANCES)
    _one_of("run.mapping", config.run.mapping, MAPPINGS)
    for name in config.evaluation.shifts:
        _one_of("evaluation.shifts", name, shifts.STRENGTHS)
    for severity in config.evaluation.severities:
        _one_of("evaluation.severities", severity, shifts.SEVERITIES)
    for field in POSITIVE:
        _positive(field, _get(config, field))
    for field in ("training.batch_size", "run.evaluation_batch_size", "run.ranking_batch_size"):
        size = _get(config, field)
        if size % num_devices:
            raise UserError(
                f"{field} is {size}, which cannot be cut among {num_devices} devices; make it a multiple of "
                f"{num_devices}, or set run.num_devices"
            )
    if config.training.batch_size > config.data.num_train:
        raise UserError(
            f"training.batch_size is {config.training.batch_size}, but data.num_train is {config.data.num_train}: "
            f"an epoch would have no batch; lower training.batch_size"
        )
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        raise UserError(f"seeds is {config.seeds}; name one or more, each once and 0 or above, such as (0, 1, 2)")
    if not re.fullmatch(workdirs.RUN_NAME, config.name):
        raise UserError(f"name is {config.name!r}; it names a folder: letters, digits and any of _ . + -")
    if config.model.name == "resnet_v2" and (config.model.depth < 11 or (config.model.depth - 2) % 9):
        raise UserError(f"model.depth is {config.model.depth}; a ResNet v2 has 9n + 2 layers: 11, 20, 29 ...")
    _check_pairs("optimizer.decay", config.optimizer.decay)
    _check_soft_labels(config)
    _check_ranking(config)


def _check_soft_labels(config: ml_collections.ConfigDict) -> None:
    labels = config.soft_labels
    if not 0 <= labels.epsilon < 1:
        raise UserError(f"soft_labels.epsilon is {labels.epsilon}; the smoothing lies in [0, 1)")
    if labels.adaptive:
        _check_pairs("soft_labels.alpha", labels.alpha)
        if not labels.alpha or labels.alpha[0][0] != 0:
            raise UserError(f"soft_labels.alpha is {labels.alpha}; its first pair begins at epoch 0")
    for field in ("soft_labels.num_subsets", "ranking.num_subsets"):
        num_subsets = _get(config, field)
        _positive(field, num_subsets)
        in_subset = config.data.num_validation // num_subsets
        if num_subsets > 1 and in_subset < MIN_SUBSET:
            raise UserError(
                f"{field} is {num_subsets}, which leaves {in_subset} of data.num_validation="
                f"{config.data.num_validation} images in a subset; {MIN_SUBSET} are the least, so take "
                f"{max(config.data.num_validation // MIN_SUBSET, 1)} subsets at most"
            )


def _check_ranking(config: ml_collections.ConfigDict) -> None:
    ranking = config.ranking
    source = workdirs.source_run(ranking.source)
    if not source and not (ranking.source and files.absolute(ranking.source).is_dir()):
        raise UserError(
            f"ranking.source is {ranking.source!r}; it is a run such as 'vanilla/seed_0', or a folder that holds "
            f"train.npz and validation.npz"
        )
    examples = ranking.agreement_examples
    if examples and not ranking.num_subsets <= examples <= config.data.num_train:
        raise UserError(
            f"ranking.agreement_examples is {examples}; it lies between ranking.num_subsets={ranking.num_subsets} "
            f"and data.num_train={config.data.num_train}, or is 0 for no comparison"
        )


def _check_pairs(field: str, pairs) -> None:
    for pair in pairs:
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise UserError(f"{field} is {pairs}; it takes ((epoch, value), ...) such as ((0, 0.05),)")
        if pair[1] <= 0:
            raise UserError(f"{field} holds {pair[1]}; its values are above 0")


def _get(config: ml_collections.ConfigDict, field: str):
    for key in field.split("."):
        config = config[key]
    return config


def _one_of(field: str, value, allowed) -> None:
    if value not in allowed:
        raise UserError(f"{field} is one of {', '.join(map(str, allowed))}, not {value!r}")


def _positive(field: str, value) -> None:
    if value <= 0:
        raise UserError(f"{field} is {value}; it must be above 0")
