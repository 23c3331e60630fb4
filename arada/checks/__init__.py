"""Finds mistakes in a config before any compute is spent; each becomes one clear line."""

import re

import ml_collections

from arada import attacks, methods, metrics, models
from arada.checks.fields import check_pairs, check_values, get, one_of, positive
from arada.data import corruptions, splits
from arada.data.shifted import published
from arada.data.shifted import sources as shift_sources
from arada.data.sources.resize import RESIZES
from arada.errors import UserError
from arada.evaluation import outcomes
from arada.models import resnet_v1
from arada.runs import ranking as rankings
from arada.runs import trained
from arada.runs.identity import RUN_NAME, initial_run, refreshes, source_of, source_run
from arada.runtime import files, kernels
from arada.training import augmentation, optimizers
from arada.training.replication import MAPPINGS

# Fields that must be above 0.
POSITIVE = (
    "data.num_classes",
    "data.num_train",
    "data.num_validation",
    "training.epochs",
    "training.batch_size",
    "training.accumulate",
    "optimizer.learning_rate",
    "ranking.cw.binary_search_steps",
    "ranking.cw.max_iterations",
    "ranking.cw.learning_rate",
    "ranking.cw.initial_const",
    "ranking.fmn.steps",
    "ranking.sdf.rounds",
    "ranking.sdf.steps",
    "ranking.sdf.candidates",
    "ranking.first_order.candidates",
    "ranking.estimate.candidates",
    "evaluation.num_bins",
    "run.evaluation_batch_size",
    "run.ranking_batch_size",
    "run.log_every_steps",
    "run.checkpoint_every_steps",
)
# Fields that must be 0 or above.
NOT_NEGATIVE = (
    "data.split_seed",
    "optimizer.warmup_epochs",
    "optimizer.momentum",
    "optimizer.l2",
    "soft_labels.shrinkage",
    "ranking.cw.confidence",
)
# With fewer validation images in a subset its confidence and accuracy are noise.
MIN_SUBSET = 10


def check_config(
    config: ml_collections.ConfigDict, num_devices: int, num_processes: int = 1, *, is_sweep_point: bool = False
) -> None:
    """Raises UserError naming the field, its value and the way out.

    `num_devices` counts the devices of all processes; `is_sweep_point` allows names of two parts, method/point.
    """
    check_values(config)
    one_of("model.name", config.model.name, models.BY_NAME)
    # Registered networks have fields of their own.
    one_of("model.batch_norm", config.model.get("batch_norm", "global"), ("global", "per_device"))
    momentum = config.model.get("batch_norm_momentum", 0.0)
    if not 0 <= momentum < 1:
        raise UserError(
            f"model.batch_norm_momentum is {momentum}; it must be in [0, 1): 0 keeps the "
            f"statistics of the last step only, and 1 never updates them"
        )
    one_of("model.dtype", config.model.get("dtype", "float32"), models.DTYPES)
    one_of("optimizer.name", config.optimizer.name, ("adam", "sgd"))
    one_of("optimizer.l2_on", config.optimizer.l2_on, optimizers.L2_TARGETS)
    one_of("training.augmentation", config.training.augmentation, augmentation.BY_NAME)
    one_of("training.normalization", config.training.normalization, splits.NORMALIZATIONS)
    one_of("method.name", config.method.name, methods.BY_NAME)
    one_of("ranking.by", config.ranking.by, rankings.BY)
    one_of("ranking.attack", config.ranking.attack, attacks.BY_NAME)
    one_of("ranking.before_refresh", config.ranking.before_refresh, ("precomputed", "one_subset"))
    one_of("evaluation.variance_of", config.evaluation.variance_of, metrics.VARIANCES)
    one_of("evaluation.store_shifted", config.evaluation.store_shifted, ("logits", "summaries"))
    one_of("evaluation.subsets_of", config.evaluation.subsets_of, ("source", "own"))
    one_of("evaluation.choose_by", config.evaluation.choose_by, outcomes.CRITERIA)
    one_of("run.mapping", config.run.mapping, MAPPINGS)
    one_of("run.members", config.run.members, trained.UNROLLED)
    one_of("run.cpu_kernels", config.run.cpu_kernels, kernels.CHOICES)
    for field in POSITIVE:
        positive(field, get(config, field))
    positive("model.width", config.model.get("width", 1))
    for field in NOT_NEGATIVE:
        if get(config, field) < 0:
            raise UserError(f"{field} is {get(config, field)}; it must be 0 or above")
    if len(config.data.image_shape) != 3 or min(config.data.image_shape) <= 0:
        raise UserError(f"data.image_shape is {config.data.image_shape}; it must be (height, width, channels)")
    positive("data.num_test", config.data.get("num_test", 1))
    if config.data.num_classes < 2:
        raise UserError(f"data.num_classes is {config.data.num_classes}; it must be 2 or above")
    _check_batches(config, num_devices, num_processes)
    if config.training.batch_size > config.data.num_train:
        raise UserError(
            f"training.batch_size is {config.training.batch_size}, but data.num_train is {config.data.num_train}: "
            f"an epoch would have no batch; lower training.batch_size"
        )
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        raise UserError(
            f"seeds is {config.seeds}; give one or more different numbers, each 0 or above, such as (0, 1, 2)"
        )
    # A point of a sweep lies in the folder of its method, where no report looks.
    name = rf"{RUN_NAME}/{RUN_NAME}" if is_sweep_point else RUN_NAME
    if not re.fullmatch(name, config.name):
        raise UserError(
            f"name is {config.name!r}; it names a folder: use letters, digits and _ . + -, and "
            f"begin with a letter, a digit or _"
        )
    if config.model.name == "resnet_v1":
        one_of("model.depth", config.model.depth, resnet_v1.BLOCKS)
        one_of("model.stride_on", config.model.get("stride_on", "3x3"), resnet_v1.STRIDE_ON)
        one_of("model.padding", config.model.get("padding", "same"), resnet_v1.PADDINGS)
    if config.model.name == "resnet_v2" and (config.model.depth < 11 or (config.model.depth - 2) % 9):
        raise UserError(f"model.depth is {config.model.depth}; a ResNet v2 has 9n + 2 layers: 11, 20, 29 ...")
    if config.model.name == "wide_resnet" and (config.model.depth < 10 or (config.model.depth - 4) % 6):
        raise UserError(f"model.depth is {config.model.depth}; a wide ResNet has 6n + 4 layers: 10, 16, 22, 28 ...")
    if config.training.normalization in ("cifar", "imagenet") and config.data.image_shape[-1] != 3:
        raise UserError(
            f"training.normalization is {config.training.normalization!r}, which has constants for three channels, but "
            f"data.image_shape={config.data.image_shape}; use 'standardize' or 'mean_image'"
        )
    if config.data.source == "imagenet":
        _check_imagenet(config, num_processes)
    check_pairs("optimizer.decay", config.optimizer.decay)
    _check_init_from(config)
    _check_soft_labels(config)
    _check_method(config)
    _check_ensemble(config)
    _check_ranking(config)
    _check_shifts(config)
    _check_registered(config)


def _check_registered(config: ml_collections.ConfigDict) -> None:
    """Builds and traces a registered network or method: its mistakes show before any compute."""
    model, method = config.model.name, config.method.name
    labels = config.soft_labels
    if (labels.adaptive or labels.epsilon) and not methods.has_soft_labels(method):
        raise UserError(
            f"soft_labels.adaptive is {labels.adaptive} and soft_labels.epsilon {labels.epsilon}, but method.name "
            f"{method!r} has no soft labels; leave them at False and 0, or derive it from arada.methods.SoftLabels"
        )
    try:
        if method in methods.BY_NAME.files:
            methods.build(config)
    except TypeError as error:
        raise UserError(f"method.name {method!r} does not accept its fields of the config: {error}") from None
    try:
        if model in models.BY_NAME.files:
            models.check_network(trained.build_model(config), tuple(config.data.image_shape), config.data.num_classes)
    except (TypeError, ValueError) as error:
        raise UserError(f"model.name {model!r}: {error}") from None


def _check_batches(config: ml_collections.ConfigDict, num_devices: int, num_processes: int) -> None:
    """Training batches are divided among all devices; other batch sizes count for one device."""
    if config.run.profile < 0:
        raise UserError(f"run.profile is {config.run.profile}; it must be a number of steps; 0 turns it off")
    size = config.training.batch_size
    if size % num_devices:
        whose = f" of all {num_processes} processes" if num_processes > 1 else ""
        raise UserError(
            f"training.batch_size is {size}, which cannot be divided among {num_devices} devices{whose}; make it a "
            f"multiple of {num_devices}{', or set run.num_devices' if num_processes == 1 else ''}"
        )
    size, parts = config.training.batch_size, config.training.accumulate
    if size % (num_devices * parts):
        raise UserError(
            f"training.accumulate is {parts}, but each of {num_devices} devices has {size // num_devices} images of "
            f"training.batch_size={size}; make it a divisor of {size // num_devices}"
        )


def _check_shifts(config: ml_collections.ConfigDict) -> None:
    evaluation, shape = config.evaluation, tuple(config.data.image_shape)
    source = evaluation.shift_source
    one_of("evaluation.shift_source", source, shift_sources.TYPES)
    allowed = shift_sources.TYPES[source]
    for name in shift_sources.types(evaluation):
        if name not in allowed:
            raise UserError(
                f"evaluation.shifts must be one of {', '.join(allowed)} where evaluation.shift_source is {source!r}, "
                f"or a list ({', '.join(shift_sources.LISTS)}), not {name!r}"
            )
    for severity in evaluation.severities:
        one_of("evaluation.severities", severity, corruptions.SEVERITIES)
    stored = [name.replace("/", "_") for name in evaluation.out_of_distribution]
    if len(set(stored)) < len(stored):
        raise UserError(
            f"evaluation.out_of_distribution is {evaluation.out_of_distribution}, two of which would be stored in "
            "one file; name each once"
        )
    if evaluation.max_examples_per_shift < 0:
        raise UserError(f"evaluation.max_examples_per_shift is {evaluation.max_examples_per_shift}; 0 means all")
    if source == "generated" and shape != (32, 32, 3):
        raise UserError(
            f"evaluation.shift_source is 'generated', which is defined for images of (32, 32, 3), but "
            f"data.image_shape is {shape}; use 'simple' or 'published'"
        )
    if source == "tfds" and config.data.get("name") not in published.TFDS_DATA_SETS:
        raise UserError(
            f"evaluation.shift_source is 'tfds', which has corrupted {' and '.join(published.TFDS_DATA_SETS)}, not "
            f"{config.data.get('name', config.data.source)!r}; use 'simple', 'generated' or 'published'"
        )
    if evaluation.crop_shifted and (source not in ("published", "tfds") or shape != (224, 224, 3)):
        raise UserError(
            "evaluation.crop_shifted is True, which is for 'published' or 'tfds' images of (224, 224, 3), not "
            f"for {source!r} images of {shape}; set it to False"
        )


def _check_init_from(config: ml_collections.ConfigDict) -> None:
    init_from = config.training.init_from
    if not init_from:
        return
    source = initial_run(config, 0)
    if not source:
        raise UserError(
            f"training.init_from is {init_from!r}; it must be a run of the workdir, such as 'vanilla/seed_0', or "
            f"'vanilla/seed_{{seed}}' for one run per seed"
        )
    if source[0] == config.name:
        raise UserError(f"training.init_from is {init_from!r}, a run of the same name; set name to another")


def _check_imagenet(config: ml_collections.ConfigDict, num_processes: int) -> None:
    data = config.data
    positive("data.shuffle_buffer", data.shuffle_buffer)
    positive("data.streams", data.streams)
    one_of("data.resize", data.resize, RESIZES)
    if config.training.batch_size % data.streams or data.streams % num_processes:
        raise UserError(
            f"data.streams is {data.streams}; it must divide training.batch_size={config.training.batch_size}, and be "
            f"a multiple of the {num_processes} processes that read"
        )
    if len(data.image_shape) != 3 or data.image_shape[0] != data.image_shape[1] or data.image_shape[2] != 3:
        raise UserError(f"data.image_shape is {data.image_shape}; crops of ImageNet are square and have three channels")
    if data.resize_side and data.resize_side < data.image_shape[0]:
        raise UserError(
            f"data.resize_side is {data.resize_side}, but data.image_shape is {data.image_shape}: the crop must fit "
            f"in; 0 takes 8/7 of it"
        )
    if config.training.normalization in splits.FROM_IMAGES:
        raise UserError(
            f"training.normalization is {config.training.normalization!r}, which would need all training images "
            f"read first; use 'unit' or 'imagenet'"
        )
    evaluation = config.evaluation
    if evaluation.shifts and evaluation.shift_source == "simple":
        raise UserError(
            f"evaluation.shifts is {evaluation.shifts}, but ImageNet has no 'simple' shifts; set it to (), or "
            f"evaluation.shift_source to 'published' or 'tfds'"
        )
    if evaluation.out_of_distribution:
        raise UserError(
            f"evaluation.out_of_distribution is {evaluation.out_of_distribution}, but ImageNet has none; set it to ()"
        )


def _check_soft_labels(config: ml_collections.ConfigDict) -> None:
    labels = config.soft_labels
    if not 0 <= labels.epsilon < 1:
        raise UserError(f"soft_labels.epsilon is {labels.epsilon}; it must be in [0, 1)")
    if labels.adaptive:
        check_pairs("soft_labels.alpha", labels.alpha)
        if not labels.alpha or labels.alpha[0][0] != 0:
            raise UserError(f"soft_labels.alpha is {labels.alpha}; its first pair must begin at epoch 0")
    for field in ("soft_labels.num_subsets", "ranking.num_subsets"):
        num_subsets = get(config, field)
        positive(field, num_subsets)
        in_subset = config.data.num_validation // num_subsets
        if num_subsets > 1 and in_subset < MIN_SUBSET:
            raise UserError(
                f"{field} is {num_subsets}, which leaves {in_subset} of data.num_validation="
                f"{config.data.num_validation} images in a subset; {MIN_SUBSET} are the minimum, so use "
                f"{max(config.data.num_validation // MIN_SUBSET, 1)} subsets at most"
            )


def _check_method(config: ml_collections.ConfigDict) -> None:
    """Checks the fields of the method that is used."""
    name = config.method.name
    fields = config.method.get(name, {})
    for field in ("beta", "step_size", "steps", "rho", "num_bins", "rate", "highest", "switch"):
        if field in fields:
            positive(f"method.{name}.{field}", fields[field])
    for field in ("radius", "gamma", "margin", "weight", "on_predicted", "on_others"):
        if fields.get(field, 0) < 0:
            raise UserError(f"method.{name}.{field} is {fields[field]}; it must be 0 or above")
    if name != "adafocal":
        return
    if fields.lowest >= 0:
        raise UserError(f"method.adafocal.lowest is {fields.lowest}; powers switch sign, so it must be below 0")
    if fields.num_bins > config.data.num_validation:
        raise UserError(
            f"method.adafocal.num_bins is {fields.num_bins}, but data.num_validation is {config.data.num_validation}: "
            f"most bins would be empty; lower it"
        )


def _check_ensemble(config: ml_collections.ConfigDict) -> None:
    ensemble, ranking = config.ensemble, config.ranking
    positive("ensemble.members", ensemble.members)
    one_of("ensemble.ranks", ensemble.ranks, ("shared", "per_member"))
    if ensemble.of and not re.fullmatch(RUN_NAME, ensemble.of):
        raise UserError(f"ensemble.of is {ensemble.of!r}; it must be the name of a method's runs, such as 'vanilla'")
    if ensemble.of == config.name:
        raise UserError(f"ensemble.of is {ensemble.of!r}, the ensemble's own name; set name to another")
    if ensemble.of or ensemble.members == 1:
        if ensemble.ranks == "per_member":
            raise UserError(
                f"ensemble.ranks is 'per_member', which is for members in lockstep, but ensemble.of is {ensemble.of!r} "
                f"and ensemble.members {ensemble.members}; leave it at 'shared'"
            )
        return
    if refreshes(config):
        raise UserError(
            f"ensemble.members is {ensemble.members} and ranking.refresh_epochs or ranking.refresh_every is set, but "
            f"members in lockstep are not ranked on the fly; leave them at () and 0, or set ensemble.of"
        )
    if ensemble.ranks == "per_member" and (source_run(source_of(config, 0)) or ("",))[0] != "vanilla":
        raise UserError(
            f"ensemble.ranks is 'per_member', but ranking.source is {ranking.source!r}; members are ranked by vanilla "
            f"runs: leave it at 'vanilla/seed_0', or set ensemble.ranks='shared'"
        )


def _check_ranking(config: ml_collections.ConfigDict) -> None:
    ranking = config.ranking
    source = source_run(source_of(config, 0))
    if not source and "{" in ranking.source and not files.absolute(ranking.source).is_dir():
        raise UserError(
            f"ranking.source is {ranking.source!r}; its only placeholder is {{seed}}, the seed of the run, at the end: "
            f"'vanilla/seed_{{seed}}'"
        )
    if not source and not (ranking.source and files.absolute(ranking.source).is_dir()):
        raise UserError(
            f"ranking.source is {ranking.source!r}; it must be a run such as 'vanilla/seed_0', or a folder that holds "
            f"train.npz and validation.npz"
        )
    if not source and ranking.by != "attack":
        raise UserError(
            f"ranking.by is {ranking.by!r}, but ranking.source={ranking.source!r} is a folder, whose ranks are used "
            f"unchanged; leave ranking.by at 'attack', or name a run"
        )
    if ranking.folder and not re.fullmatch(RUN_NAME, ranking.folder):
        raise UserError(f"ranking.folder is {ranking.folder!r}; it must be one plain word, such as 'by_fmn', or empty")
    if ranking.first_order.refine_steps < 0:
        raise UserError(f"ranking.first_order.refine_steps is {ranking.first_order.refine_steps}; 0 refines nothing")
    if ranking.refresh_attack:
        one_of("ranking.refresh_attack", ranking.refresh_attack, (*attacks.BY_NAME, "estimate"))
    if not (ranking.refresh_epochs or ranking.refresh_every):
        if ranking.before_refresh == "one_subset":
            raise UserError(
                "ranking.before_refresh is 'one_subset', but there is no refresh; set ranking.refresh_epochs or "
                "ranking.refresh_every, or take the preset adals"
            )
        return
    epochs = config.training.epochs
    chosen = (*ranking.refresh_epochs, ranking.refresh_every or 1)
    outside = [epoch for epoch in chosen if not 1 <= epoch < epochs]
    if outside:
        raise UserError(
            f"ranking.refresh_epochs is {ranking.refresh_epochs} and ranking.refresh_every {ranking.refresh_every}, "
            f"but {outside[0]} is not an epoch from 1 to {epochs - 1}: another epoch must follow a refresh"
        )
    if config.soft_labels.num_subsets == 1:
        raise UserError(
            "ranking.refresh_epochs or ranking.refresh_every is set, but soft_labels.num_subsets is 1: there is "
            "nothing to rank; take a preset of AR-AdaLS, or leave them at () and 0"
        )
    if ranking.by == "random":
        raise UserError("ranking.by is 'random': a refresh would draw the same ranks; set ranking.refresh_epochs=()")
    if ranking.by != "attack" and ranking.refresh_attack:
        raise UserError(f"ranking.by is {ranking.by!r}, which needs no ranking.refresh_attack; leave it empty")
