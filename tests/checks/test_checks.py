"""Every mistake that a config can hold ends in one line that names the field and the way out, before any compute."""

import math

import pytest

from arada import checks
from arada.errors import UserError
from configs import cifar10, cifar10_wrn, cifar100_wrn, digits, imagenet, own_images

MISTAKES = [
    # What each field must be by itself: all of it in test_fields.py.
    ({"seeds": ("a",)}, r"seeds is \('a',\); its items must be whole numbers"),
    ({"soft_labels.alpha": ((0, 0.0),)}, r"soft_labels.alpha holds 0.0; its values must be above 0"),
    ({"optimizer.decay": ((30, 0.1), (30, 0.01))}, r"optimizer.decay is .*; its epochs must increase"),
    ({"soft_labels.alpha": ((5, 0.1),)}, r"soft_labels.alpha .* must begin at epoch 0"),
    ({"soft_labels.num_subsets": 501}, r"soft_labels.num_subsets is 501.*num_validation=500.*50 subsets at most"),
    ({"soft_labels.num_subsets": 51}, r"leaves 9 of data.num_validation=500 images in a subset; 10 are the minimum"),
    ({"ranking.num_subsets": 0}, r"ranking.num_subsets is 0; it must be above 0"),
    ({"data": {**digits.get_config().data, "num_test": 0}}, r"data.num_test is 0; it must be above 0"),
    ({"soft_labels.epsilon": 1.0}, r"soft_labels.epsilon is 1.0"),
    ({"training.batch_size": 99}, r"training.batch_size is 99, which cannot be divided among 2 devices.*multiple of 2"),
    ({"run.ranking_batch_size": 0}, r"run.ranking_batch_size is 0; it must be above 0"),
    ({"training.accumulate": 3}, r"training.accumulate is 3, but each of 2 devices has 50 images .* a divisor of 50"),
    ({"training.accumulate": 0}, r"training.accumulate is 0; it must be above 0"),
    ({"run.profile": -1}, r"run.profile is -1; it must be a number of steps"),
    ({"training.batch_size": 802}, r"training.batch_size is 802, but data.num_train is 800"),
    ({"training.epochs": 0}, r"training.epochs is 0; it must be above 0"),
    ({"training.augmentation": "mirror"}, r"training.augmentation must be one of none, .* not 'mirror'"),
    ({"training.normalization": "none"}, r"training.normalization must be one of mean_image, standardize"),
    ({"training.normalization": "cifar"}, r"training.normalization is 'cifar', .* data.image_shape=\(8, 8, 1\)"),
    ({"model.name": "vgg"}, r"model.name must be one of resnet_v1, resnet_v2, wide_resnet, not 'vgg'"),
    ({"model.batch_norm": "local"}, r"model.batch_norm must be one of global, per_device"),
    ({"model.batch_norm_momentum": 1.0}, r"model.batch_norm_momentum is 1.0; it must be in \[0, 1\)"),
    ({"model.batch_norm_momentum": -0.1}, r"model.batch_norm_momentum is -0.1; it must be in \[0, 1\)"),
    ({"model.batch_norm_momentum": math.nan}, r"model.batch_norm_momentum is nan; it must be a number"),
    ({"model.dtype": "float16"}, r"model.dtype must be one of float32, bfloat16, not 'float16'"),
    ({"optimizer.name": "lion"}, r"optimizer.name must be one of adam, sgd"),
    ({"optimizer.l2_on": "biases"}, r"optimizer.l2_on must be one of"),
    ({"evaluation.shifts": ("fog",)}, r"evaluation.shifts must be one of noise, .* not 'fog'"),
    ({"evaluation.shifts": ("cifar10",)}, r"where evaluation.shift_source is 'simple', .* not 'gaussian_noise'"),
    (
        {"evaluation.shift_source": "published", "evaluation.shifts": ("elastic",)},
        r"evaluation.shifts must be one of gaussian_noise, .* not 'elastic'",
    ),
    (
        {"evaluation.shift_source": "cifar10"},
        r"evaluation.shift_source must be one of simple, generated, published, tfds",
    ),
    ({"evaluation.shift_source": "tfds", "evaluation.shifts": ()}, r"corrupted cifar10 and imagenet2012, not 'digits'"),
    (
        {"evaluation.shift_source": "generated", "evaluation.shifts": ("fog",)},
        r"shift_source is 'generated', .* data.image_shape is \(8, 8, 1\)",
    ),
    ({"evaluation.max_examples_per_shift": -1}, r"max_examples_per_shift is -1; 0 means all"),
    ({"evaluation.crop_shifted": True}, r"evaluation.crop_shifted is True, .* not for 'simple' images of \(8, 8, 1\)"),
    ({"evaluation.severities": (6,)}, r"evaluation.severities must be one of 1, 2, 3, 4, 5, not 6"),
    ({"evaluation.variance_of": "logits"}, r"evaluation.variance_of must be one of predicted_class"),
    ({"run.mapping": "xmap"}, r"run.mapping must be one of pmap, shard_map"),
    ({"run.members": "vmap"}, r"run.members must be one of auto, stacked, unrolled, not 'vmap'"),
    ({"run.cpu_kernels": "mkl"}, r"run.cpu_kernels must be one of auto, stock, onednn, not 'mkl'"),
    ({"seeds": ()}, r"seeds is \(\); give one or more"),
    ({"seeds": (0, 0)}, r"seeds is \(0, 0\); give one or more different"),
    ({"seeds": (-1,)}, r"seeds is \(-1,\)"),
    ({"name": "a/b"}, r"name is 'a/b'; it names a folder"),
    *(({"name": name}, r"name is '.*'; it names a folder") for name in ("", ".", "..", ".hidden", "-x", "x" * 101)),
    *(
        ({"ranking.folder": name}, r"ranking.folder is '.*'; it must be one plain word")
        for name in ("..", "a/b", "/tmp")
    ),
    (
        {"evaluation.out_of_distribution": ("a/b", "a_b")},
        r"out_of_distribution is .*, two of which would be stored in one file",
    ),
    ({"ensemble.of": ".."}, r"ensemble.of is '..'; it must be the name of a method's runs"),
    ({"optimizer.learning_rate": math.nan}, r"optimizer.learning_rate is nan; it must be a number, not nan or inf"),
    ({"ensemble.members": 0}, r"ensemble.members is 0; it must be above 0"),
    ({"ensemble.ranks": "own"}, r"ensemble.ranks must be one of shared, per_member, not 'own'"),
    ({"ensemble.of": "a/b"}, r"ensemble.of is 'a/b'; it must be the name of a method's runs"),
    ({"ensemble.of": "ar_adals"}, r"ensemble.of is 'ar_adals', the ensemble's own name"),
    ({"ensemble.ranks": "per_member"}, r"ensemble.ranks is 'per_member', .* lockstep, .*members 1; leave it"),
    (
        {"ensemble.ranks": "per_member", "ensemble.members": 2, "ensemble.of": "vanilla"},
        r"ensemble.ranks is 'per_member', .* ensemble.of is 'vanilla'",
    ),
    (
        {"ensemble.ranks": "per_member", "ensemble.members": 2, "ranking.source": "/"},
        r"ensemble.ranks is 'per_member', but ranking.source is '/'; members are ranked by vanilla runs",
    ),
    (
        {"ensemble.members": 2, "ranking.refresh_every": 2},
        r"ensemble.members is 2 and .* ranking.refresh_every is set, but members in lockstep are not ranked on the fly",
    ),
    ({"model.name": "resnet_v1", "model.depth": 29}, r"model.depth must be one of 50, 101, 152, not 29"),
    (
        {"model.name": "resnet_v1", "model.depth": 50, "model.stride_on": "2x2"},
        r"model.stride_on must be one of 3x3, 1x1, not '2x2'",
    ),
    ({"model.depth": 12}, r"model.depth is 12; .* 11, 20, 29"),
    ({"model.name": "wide_resnet", "model.depth": 29}, r"model.depth is 29; .* 10, 16, 22, 28"),
    ({"model.name": "wide_resnet", "model.depth": 4}, r"model.depth is 4; a wide ResNet has 6n \+ 4 layers"),
    ({"evaluation.num_bins": 0}, r"evaluation.num_bins is 0"),
    ({"ranking.cw.max_iterations": 0}, r"ranking.cw.max_iterations is 0"),
    ({"data.num_classes": 1}, r"data.num_classes is 1; it must be 2 or above"),
    ({"ranking.by": "luck"}, r"ranking.by must be one of attack, confidence, random, not 'luck'"),
    ({"ranking.attack": "deepfool"}, r"ranking.attack must be one of cw, fmn, sdf, first_order, not 'deepfool'"),
    ({"ranking.refresh_epochs": (13, 40)}, r"refresh_epochs is \(13, 40\) .* 40 is not an epoch from 1 to 39"),
    ({"ranking.refresh_epochs": (0,)}, r"refresh_epochs is \(0,\) .* 0 is not an epoch from 1 to 39"),
    ({"ranking.refresh_every": -5}, r"ranking.refresh_every -5, but -5 is not an epoch"),
    (
        {"ranking.refresh_every": 5, "soft_labels.num_subsets": 1},
        r"ranking.refresh_every is set, but .* nothing to rank",
    ),
    (
        {"ranking.refresh_every": 5, "ranking.by": "random"},
        r"ranking.by is 'random': a refresh would draw the same ranks",
    ),
    (
        {"ranking.refresh_every": 5, "ranking.refresh_attack": "pgd"},
        r"ranking.refresh_attack must be one of .*, not 'pgd'",
    ),
    ({"ranking.refresh_every": 5, "ranking.before_refresh": "later"}, r"before_refresh must be one of .*, not 'later'"),
    ({"ranking.refresh_attack": "pgd"}, r"ranking.refresh_attack must be one of .*, not 'pgd'"),
    ({"ranking.before_refresh": "one_subset"}, r"before_refresh is 'one_subset', but there is no refresh; set "),
    (
        {"ranking.refresh_every": 5, "ranking.by": "confidence", "ranking.refresh_attack": "fmn"},
        r"ranking.by is 'confidence', which needs no ranking.refresh_attack",
    ),
    (
        {"ranking.by": "random", "ranking.source": "configs"},
        r"by is 'random', but ranking.source='configs' is a folder",
    ),
    ({"method.name": "mixip"}, r"method.name must be one of cross_entropy, mixup, .*acls, not 'mixip'"),
    (
        {"training.init_from": "vanilla"},
        r"init_from is 'vanilla'; it must be a run of the workdir, such as 'vanilla/seed_0'",
    ),
    ({"training.init_from": "a_{seed}/seed_0"}, r"init_from is 'a_{seed}/seed_0'; it must be a run"),
    (
        {"name": "mine", "training.init_from": "mine/seed_1"},
        r"'mine/seed_1', a run of the same name; set name to another",
    ),
    ({"method.name": "mixup", "method.mixup.beta": 0.0}, r"method.mixup.beta is 0.0; it must be above 0"),
    ({"method.name": "ccat", "method.ccat.radius": -0.1}, r"method.ccat.radius is -0.1; it must be 0 or above"),
    ({"method.name": "ccat", "method.ccat.steps": 0}, r"method.ccat.steps is 0"),
    ({"method.name": "ccat", "method.ccat.step_size": 0.0}, r"method.ccat.step_size is 0.0"),
    ({"method.name": "ccat", "method.ccat.rho": -1.0}, r"method.ccat.rho is -1.0"),
    ({"method.name": "focal", "method.focal.gamma": -1.0}, r"method.focal.gamma is -1.0; it must be 0 or above"),
    ({"method.name": "mbls", "method.mbls.margin": -1.0}, r"method.mbls.margin is -1.0; it must be 0 or above"),
    ({"method.name": "acls", "method.acls.on_others": -0.1}, r"method.acls.on_others is -0.1; it must be 0 or above"),
    ({"method.name": "adafocal", "method.adafocal.lowest": 0.1}, r"method.adafocal.lowest is 0.1; .* below 0"),
    ({"method.name": "adafocal", "method.adafocal.switch": 0.0}, r"method.adafocal.switch is 0.0"),
    ({"method.name": "adafocal", "method.adafocal.num_bins": 501}, r"num_bins is 501, but data.num_validation is 500"),
    ({"ranking.cw.initial_const": 0.0}, r"ranking.cw.initial_const is 0.0; it must be above 0"),
    ({"ranking.cw.learning_rate": -1.0}, r"ranking.cw.learning_rate is -1.0"),
    ({"ranking.sdf.rounds": 0}, r"ranking.sdf.rounds is 0; it must be above 0"),
    ({"ranking.first_order.refine_steps": -1}, r"refine_steps is -1; 0 refines nothing"),
    (
        {"ranking.source": "vanila"},
        r"ranking.source is 'vanila'; it must be a run such as 'vanilla/seed_0', or a folder",
    ),
    ({"ranking.source": ""}, r"ranking.source is ''"),
    (
        {"ranking.source": "vanilla/seed_{s}"},
        r"ranking.source is 'vanilla/seed_\{s\}'; its only placeholder is \{seed\}",
    ),
    ({"ranking.source": "{name}/seed_{seed}"}, r"ranking.source is '\{name\}/seed_\{seed\}'; its only placeholder"),
    ({"ranking.source": "vanilla/seed_{seed}{seed}"}, r"ranking.source is .*; its only placeholder is \{seed\}"),
    ({"data.image_shape": (8, 8)}, r"data.image_shape is \(8, 8\); it must be \(height, width, channels\)"),
    ({"data.split_seed": -1}, r"data.split_seed is -1; it must be 0 or above"),
    ({"model.width": 0}, r"model.width is 0; it must be above 0"),
]


@pytest.mark.parametrize(("overrides", "message"), MISTAKES)
def test_a_mistake_is_one_line(overrides, message):
    config = digits.get_config("ar_adals")
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=message) as error:
        checks.check_config(config, num_devices=2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.num_train": 4000}, r"training.batch_size is 4096, but data.num_train is 4000: an epoch would have no"),
        ({"data.image_shape": (224, 192, 3)}, r"data.image_shape is \(224, 192, 3\); crops of ImageNet are square"),
        ({"data.image_shape": (224, 224, 1)}, r"data.image_shape is \(224, 224, 1\); .* three channels"),
        ({"data.shuffle_buffer": 0}, r"data.shuffle_buffer is 0; it must be above 0"),
        ({"data.resize": "bicubic"}, r"data.resize must be one of tf1_bicubic, tf2_bicubic, bilinear, not 'bicubic'"),
        (
            {"data.resize_side": 200},
            r"data.resize_side is 200, but data.image_shape is \(224, 224, 3\): the crop must fit",
        ),
        ({"model.padding": "valid"}, r"model.padding must be one of same, both, not 'valid'"),
        ({"data.streams": 3}, r"data.streams is 3; it must divide training.batch_size=4096"),
        ({"training.normalization": "standardize"}, r"training.normalization is 'standardize', .* use 'unit'"),
        (
            {"evaluation.shift_source": "simple", "evaluation.shifts": ("noise",)},
            r"evaluation.shifts is \('noise',\), but ImageNet has no 'simple' shifts; set it to \(\)",
        ),
        ({"evaluation.out_of_distribution": ("svhn",)}, r"evaluation.out_of_distribution .* but ImageNet has none"),
    ],
)
def test_mistakes_about_imagenet(overrides, message):
    config = imagenet.get_config("ar_adals")
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=message):
        checks.check_config(config, num_devices=4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training.batch_size": 30}, r"training.batch_size is 30, .* among 4 devices of all 2 processes; .* of 4$"),
        ({"run.evaluation_batch_size": -1}, r"run.evaluation_batch_size is -1; it must be above 0"),
    ],
)
def test_batches_of_several_processes(overrides, message):
    config = digits.get_config("ar_adals")
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=message):
        checks.check_config(config, num_devices=4, num_processes=2)


def test_each_process_reads_streams_of_its_own():
    config = imagenet.get_config("ar_adals")
    with pytest.raises(UserError, match=r"data.streams is 8; .* a multiple of the 16 processes"):
        checks.check_config(config, num_devices=64, num_processes=16)


@pytest.mark.parametrize("method", digits.METHODS)
@pytest.mark.parametrize("file", [digits, cifar10, cifar10_wrn, cifar100_wrn, imagenet, own_images])
def test_every_preset_passes(file, method):
    for size in ("", *file.SIZES):
        config = file.get_config(f"{method},{size}")
        checks.check_config(config, num_devices=4)
        assert config.name == method


def test_a_field_of_one_network_may_be_left_out():
    config = digits.get_config("vanilla")
    config.update_from_flattened_dict({"model.name": "resnet_v1", "model.depth": 101})
    checks.check_config(config, num_devices=1)


def test_fields_of_another_method_are_ignored():
    config = digits.get_config("mixup")
    config.method.focal.gamma = -1.0
    checks.check_config(config, num_devices=1)


def test_alpha_of_a_method_that_does_not_use_it_is_ignored():
    config = digits.get_config("vanilla")
    config.soft_labels.alpha = ((0, -1.0),)
    checks.check_config(config, num_devices=1)


@pytest.mark.parametrize(
    ("presets", "message"),
    [("ar_adal", "unknown preset 'ar_adal'; there are vanilla"), ("adals,ar_adals", "one method at a time")],
)
def test_wrong_presets_are_refused(presets, message):
    with pytest.raises(ValueError, match=message):
        digits.get_config(presets)
