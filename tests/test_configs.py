import itertools
import pathlib

import ml_collections
import pytest
from absl import flags
from ml_collections import config_flags

from arada.runs.identity import refreshes
from arada.training import optimizers
from configs import base, cifar10, cifar10_wrn, cifar100_wrn, digits, imagenet, own_images

CONFIGS = pathlib.Path(base.__file__).parent
FILES = {
    "cifar10": cifar10,
    "cifar10_wrn": cifar10_wrn,
    "cifar100_wrn": cifar100_wrn,
    "digits": digits,
    "imagenet": imagenet,
    "own_images": own_images,
}
PRESETS = [
    (name, ",".join(filter(None, presets)))
    for name, file in FILES.items()
    for presets in itertools.product(("", *file.METHODS), ("", *file.SIZES))
]


def fields_of(config, prefix=""):
    """{"section.field": value} of all fields that are no sections."""
    fields = {}
    for key, value in config.items():
        nested = isinstance(value, ml_collections.ConfigDict)
        fields |= fields_of(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return fields


def parsed(config, *arguments):
    """What the command line makes of these arguments; the file itself is loaded in test_main.py."""
    values = flags.FlagValues()
    argv = ["main", *arguments]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, lock_config=True, sys_argv=argv)
    values(argv)
    return values.config


def another(value):
    """A value of the same type that is not the same, and the flag that sets it."""
    if isinstance(value, bool):
        return not value, str(not value)
    if isinstance(value, tuple):
        value = (*value, value[-1] if value else 1)
        return value, repr(value).replace(" ", "")
    value = {int: lambda x: x + 1, float: lambda x: x + 0.25, str: lambda x: x + "x"}[type(value)](value)
    return value, str(value)


def test_there_is_no_other_config():
    assert {path.stem for path in CONFIGS.glob("*.py")} == {"__init__", "base", "cifar_wrn", *FILES}


@pytest.mark.parametrize("name", FILES)
def test_every_field_can_be_overridden(name):
    config = FILES[name].get_config("ar_adals")
    fields = fields_of(config)
    # Neither None nor a list could be overridden.
    assert {type(value) for value in fields.values()} == {bool, int, float, str, tuple}
    new = {field: another(value) for field, value in fields.items()}
    after = fields_of(parsed(config, *(f"--config.{field}={flag}" for field, (_, flag) in new.items())))
    assert after == {field: value for field, (value, _) in new.items()}
    assert all(after[field] != value and type(after[field]) is type(value) for field, value in fields.items())


@pytest.mark.parametrize("argument", ["--config.training.epochs=many", "--config.training.epochs=2.5"])
def test_a_value_of_another_type_is_refused(argument):
    with pytest.raises((flags.IllegalFlagValueError, TypeError)):
        parsed(digits.get_config(), argument)


def test_an_unknown_field_is_refused():
    with pytest.raises(AttributeError, match="epoch"):
        parsed(digits.get_config(), "--config.training.epoch=2")


@pytest.mark.parametrize("name", FILES)
def test_all_data_sets_have_the_same_methods(name):
    file = FILES[name]
    ranked = {"ar_adals", "ar_adals_on_the_fly", "ar_adals_by_confidence", "ar_adals_by_random", "ar_adals_shrunk"}
    others = {"mixup", "ccat", "focal", "adafocal", "dual_focal", "mbls", "acls"}
    averaged = {f"ensemble_{method}" for method in ("vanilla", "label_smoothing", "adals", "ar_adals")}
    single = {"vanilla", "label_smoothing", "adals"} | ranked | others
    assert set(file.METHODS) == single | averaged | {"ar_adals_of_ensemble"}
    for method in averaged:
        config, member = file.get_config(method), file.get_config(method.removeprefix("ensemble_"))
        assert (config.name, config.ensemble.of, config.seeds) == (method, member.name, (0,))
        assert config.ensemble.members > 1
        assert config.soft_labels.to_dict() == member.soft_labels.to_dict()
    lockstep = file.get_config("ar_adals_of_ensemble")
    assert (lockstep.ensemble.of, lockstep.ensemble.members) == ("", config.ensemble.members)
    assert lockstep.soft_labels.to_dict() == file.get_config("ar_adals").soft_labels.to_dict()
    for method in single:
        config = file.get_config(method)
        assert config.name == method
        assert config.method.name == (method if method in others else "cross_entropy")
        labels = config.soft_labels
        assert labels.adaptive == (method in ranked | {"adals"})
        assert labels.num_subsets == (10 if method in ranked else 1)
        assert labels.shrinkage == (method == "ar_adals_shrunk")
        assert refreshes(config) == (method == "ar_adals_on_the_fly")
        assert config.ranking.refresh_attack == ("first_order" if refreshes(config) else "")
        control = method.removeprefix("ar_adals_by_")
        assert config.ranking.by == ("attack" if control == method else control)
        assert (labels.epsilon > 0) == (method == "label_smoothing")
    assert file.get_config().name == "vanilla"
    assert fields_of(file.get_config()) == fields_of(file.get_config("vanilla"))


def test_configs_share_nothing():
    first = cifar10.get_config("ar_adals")
    first.soft_labels.num_subsets = 3
    first.evaluation.num_bins = 3
    assert cifar10.get_config("ar_adals").soft_labels.num_subsets == 10
    assert cifar10.get_config().evaluation.num_bins == 15


@pytest.mark.parametrize("presets", ["small,mine", "mine,small"])
def test_sizes_come_first_then_the_method(presets):
    methods = {"mine": {"training.epochs": 7, "soft_labels.epsilon": 0.5}}
    sizes = {"small": {"training.epochs": 2, "training.batch_size": 8}}
    config = base.with_presets(base.config(), presets, methods, sizes)
    assert config.name == "mine"
    assert (config.training.epochs, config.training.batch_size, config.soft_labels.epsilon) == (7, 8, 0.5)


def test_a_size_alone_is_no_method():
    config = base.with_presets(base.config(), "small", {}, {"small": {"training.epochs": 2}})
    assert (config.name, config.training.epochs) == ("vanilla", 2)


def test_finetuning_by_hand():
    """A tenth, or a quarter, of all that is counted in epochs; alpha in proportion."""
    config = cifar10.get_config("finetune,ar_adals_on_the_fly")  # 200 epochs; refreshed after 65 and 130
    assert (config.name, config.training.init_from) == ("ar_adals_on_the_fly_finetuned", "vanilla/seed_{seed}")
    assert (config.training.epochs, config.ranking.refresh_epochs) == (20, (6, 13))
    assert config.optimizer.decay == ((0, 0.1), (15, 0.01))
    ((first, alpha),) = config.soft_labels.alpha
    assert (first, alpha) == (0, pytest.approx(0.05))
    config = imagenet.get_config("ar_adals,finetune_quarter")  # 90 epochs; alpha rises after 60
    assert (config.name, config.training.epochs) == ("ar_adals_finetuned_quarter", 22)
    assert config.soft_labels.alpha == ((0, pytest.approx(0.004)), (15, pytest.approx(0.2)))
    assert config.optimizer.warmup_epochs == 0
    config = cifar10.get_config("ensemble_adals,finetune")
    assert (config.name, config.ensemble.of) == ("ensemble_adals_finetuned", "adals_finetuned")
    assert cifar10.get_config("finetune").name == "vanilla_finetuned"


def test_pretrained_weights_are_torchvision_s():
    config = imagenet.get_config("ar_adals,finetune,pretrained")
    assert (config.name, config.seeds) == ("ar_adals_finetuned", (0,))
    model = config.model
    assert (model.padding, model.stride_on, model.batch_norm_epsilon) == ("both", "3x3", 1e-5)
    assert (config.data.resize, config.data.resize_side) == ("bilinear", 256)
    assert config.training.normalization == "imagenet"
    assert fields_of(config).keys() == fields_of(imagenet.get_config()).keys()


@pytest.mark.parametrize("name", FILES)
def test_a_finetuned_learning_rate_is_a_tenth_and_a_hundredth(name):
    config, schedules = FILES[name].get_config("finetune"), []
    for presets in ("finetune", ""):
        of_preset = FILES[name].get_config(presets).optimizer
        schedules.append(optimizers.learning_rate_schedule(of_preset.copy_and_resolve_references(), 1))
    last, started = config.training.epochs - 1, 10  # after the warm-up
    assert float(schedules[0](0)) == pytest.approx(0.1 * float(schedules[1](started)))
    assert float(schedules[0](last)) == pytest.approx(0.01 * float(schedules[1](started)))


@pytest.mark.parametrize(
    ("presets", "message"),
    [
        ("mine,tiny", r"unknown preset 'tiny'; there are mine, yours, small, finetune, finetune_quarter"),
        ("mine,yours", r"one method at a time, not mine and yours"),
        ("finetune,finetune_quarter", r"one way to fine-tune at a time, not finetune and finetune_quarter"),
        ("mine,mine", r"one method at a time, not mine and mine"),
    ],
)
def test_wrong_presets_are_reported(presets, message):
    with pytest.raises(ValueError, match=message):
        base.with_presets(base.config(), presets, {"mine": {}, "yours": {}}, {"small": {}})


@pytest.mark.parametrize(("name", "presets"), PRESETS)
def test_presets_bring_no_fields_of_their_own(name, presets):
    # A misspelt field would be one.
    assert fields_of(FILES[name].get_config(presets)).keys() == fields_of(FILES[name].get_config()).keys()


def test_cifar10_is_trained_as_the_paper_says():
    config = cifar10.get_config("ar_adals")
    assert (config.model.name, config.model.depth, config.model.width) == ("resnet_v2", 29, 16)
    assert (config.data.num_train, config.data.num_validation, config.data.num_test) == (45_000, 5_000, 10_000)
    assert (config.training.epochs, config.training.batch_size) == (200, 256)
    assert config.soft_labels.alpha == ((0, 0.005),)
    cw = config.ranking.cw
    assert (cw.binary_search_steps, cw.max_iterations, cw.learning_rate) == (3, 500, 0.005)


@pytest.mark.parametrize(
    ("file", "epsilon", "adals", "ar_adals", "refreshed", "members", "seeds"),
    [
        (cifar10, 0.02, ((0, 0.05),), ((0, 0.005),), (65, 130), 5, 5),
        (cifar10_wrn, 0.02, ((0, 0.005),), ((0, 0.005),), (65, 130), 4, 4),
        (cifar100_wrn, 0.07, ((0, 0.005),), ((0, 0.005),), (65, 130), 4, 4),
        # Nobody ranked ImageNet on the fly.
        (imagenet, 0.02, ((0, 0.03),), ((0, 0.001), (60, 0.05)), None, 5, 5),
    ],
)
def test_settings_of_methods_are_the_papers(file, epsilon, adals, ar_adals, refreshed, members, seeds):
    assert file.get_config("label_smoothing").soft_labels.epsilon == epsilon
    assert file.get_config("adals").soft_labels.alpha == adals
    for method in ("ar_adals", "ar_adals_on_the_fly", "ensemble_ar_adals", "ar_adals_of_ensemble"):
        labels = file.get_config(method).soft_labels
        assert (labels.alpha, labels.num_subsets) == (ar_adals, 10)
    if refreshed:
        assert file.get_config("ar_adals_on_the_fly").ranking.refresh_epochs == refreshed
    for method in ("ensemble_vanilla", "ar_adals_of_ensemble"):
        assert file.get_config(method).ensemble.members == members
    assert file.get_config("vanilla").seeds == tuple(range(seeds))
    method = file.get_config("mixup").method
    assert (method.mixup.beta, method.ccat.radius, method.ccat.step_size, method.ccat.steps) == (0.2, 0.01, 0.025, 10)


@pytest.mark.parametrize("file", [cifar10_wrn, cifar100_wrn])
def test_the_wrn_recipes_are_the_papers(file):
    config = file.get_config()
    schedule = optimizers.learning_rate_schedule(config.optimizer, steps_per_epoch=87)
    # 0.1 * 512 / 128 after a warm-up of an epoch; a fifth from 60, 120 and 160 on.
    rates = [float(schedule(87 * epoch)) for epoch in (0, 0.5, 1, 59, 60, 120, 160, 199)]
    assert rates == pytest.approx([0, 0.2, 0.4, 0.4, 0.08, 0.016, 0.0032, 0.0032], rel=2e-2)


def test_imagenet_is_trained_as_the_paper_says():
    config = imagenet.get_config("ar_adals")
    assert (config.model.name, config.model.depth, config.model.width) == ("resnet_v1", 101, 64)
    assert (config.model.batch_norm, config.model.dtype) == ("per_device", "bfloat16")
    data = config.data
    assert (data.num_train, data.num_validation, data.num_test) == (1_281_167, 25_000, 25_000)
    assert (config.training.epochs, config.training.batch_size, config.training.normalization) == (90, 4096, "unit")
    assert (config.optimizer.l2, config.optimizer.l2_on) == (1e-4, "kernels_and_biases")
    # 0.1 * 4096 / 256 after a warm-up of five epochs; a tenth each from 30, 60 and 80 on.
    schedule = optimizers.learning_rate_schedule(config.optimizer, steps_per_epoch=312)
    rates = [float(schedule(312 * epoch)) for epoch in (0, 2.5, 5, 29, 30, 60, 80, 89)]
    assert rates == pytest.approx([0, 0.8, 1.6, 1.6, 0.16, 0.016, 0.0016, 0.0016], rel=1e-5)


@pytest.mark.parametrize("presets", ["ar_adals,testing", "ar_adals_on_the_fly,testing", "vanilla,testing"])
def test_imagenet_s_testing_preset_fits_the_sample(presets):
    config = imagenet.get_config(presets)
    assert config.data.num_train <= 160
    assert config.data.num_validation + config.data.num_test <= 80
    assert config.soft_labels.num_subsets in (1, 4)
    # Still the paper's network on whole images.
    assert (config.model.depth, config.data.image_shape) == (101, (224, 224, 3))
    assert config.optimizer.learning_rate == pytest.approx(0.1 * 8 / 256)


def test_the_learning_rate_follows_a_batch_size_set_on_the_command_line():
    config = parsed(cifar10_wrn.get_config(), "--config.training.batch_size=128")
    assert config.optimizer.learning_rate == pytest.approx(0.1)
    config = parsed(
        cifar10_wrn.get_config(), "--config.training.batch_size=128", "--config.optimizer.learning_rate=0.3"
    )
    assert config.optimizer.learning_rate == 0.3


@pytest.mark.parametrize(("name", "presets"), PRESETS)
def test_running_statistics_are_at_most_an_epoch_old(name, presets):
    config = FILES[name].get_config(presets)
    assert 1 / (1 - config.model.batch_norm_momentum) <= 1.001 * (config.data.num_train // config.training.batch_size)


def test_batch_norm_momentum_is_that_of_the_networks_own_scripts():
    scripts = {"cifar10": 0.99, "cifar10_wrn": 0.9, "cifar100_wrn": 0.9, "imagenet": 0.9}
    assert {name: FILES[name].get_config().model.batch_norm_momentum for name in scripts} == scripts
