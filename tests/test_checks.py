"""Every mistake that a config can hold ends in one line that names the field and the way out, before any compute."""

import pytest

from arada import checks
from arada.errors import UserError
from configs import cifar10, digits

MISTAKES = [
    ({"soft_labels.alpha": ((0, 0.0),)}, r"soft_labels.alpha holds 0.0; its values are above 0"),
    ({"soft_labels.alpha": ((0, -0.1),)}, r"soft_labels.alpha holds -0.1"),
    ({"soft_labels.alpha": ((5, 0.1),)}, r"soft_labels.alpha .* begins at epoch 0"),
    ({"soft_labels.alpha": (0.1,)}, r"soft_labels.alpha is .* \(\(0, 0.05\),\)"),
    ({"soft_labels.num_subsets": 501}, r"soft_labels.num_subsets is 501.*num_validation=500.*50 subsets at most"),
    ({"soft_labels.num_subsets": 51}, r"leaves 9 of data.num_validation=500 images in a subset; 10 are the least"),
    ({"ranking.num_subsets": 0}, r"ranking.num_subsets is 0; it must be above 0"),
    ({"soft_labels.epsilon": 1.0}, r"soft_labels.epsilon is 1.0"),
    ({"training.batch_size": 99}, r"training.batch_size is 99, which cannot be cut among 2 devices.*multiple of 2"),
    ({"run.ranking_batch_size": 33}, r"run.ranking_batch_size is 33"),
    ({"training.batch_size": 802}, r"training.batch_size is 802, but data.num_train is 800"),
    ({"training.epochs": 0}, r"training.epochs is 0; it must be above 0"),
    ({"training.augmentation": "mirror"}, r"training.augmentation is one of none, .* not 'mirror'"),
    ({"training.normalization": "none"}, r"training.normalization is one of mean_image, standardize"),
    ({"model.name": "vgg"}, r"model.name is one of resnet_v2, not 'vgg'"),
    ({"model.batch_norm": "local"}, r"model.batch_norm is one of global, per_device"),
    ({"optimizer.name": "lion"}, r"optimizer.name is one of adam, sgd"),
    ({"optimizer.l2_on": "biases"}, r"optimizer.l2_on is one of"),
    ({"ranking.attack": "deepfool"}, r"ranking.attack is one of cw, fmn"),
    ({"evaluation.shifts": ("fog",)}, r"evaluation.shifts is one of .* not 'fog'"),
    ({"evaluation.severities": (6,)}, r"evaluation.severities is one of 1, 2, 3, 4, 5, not 6"),
    ({"evaluation.variance_of": "logits"}, r"evaluation.variance_of is one of predicted_class"),
    ({"run.mapping": "xmap"}, r"run.mapping is one of pmap, shard_map"),
    ({"seeds": ()}, r"seeds is \(\); name one or more"),
    ({"seeds": (0, 0)}, r"seeds is \(0, 0\); name one or more, each once"),
    ({"seeds": (-1,)}, r"seeds is \(-1,\)"),
    ({"name": "a/b"}, r"name is 'a/b'; it names a folder"),
    ({"model.depth": 12}, r"model.depth is 12; .* 11, 20, 29"),
    ({"evaluation.num_bins": 0}, r"evaluation.num_bins is 0"),
    ({"ranking.cw.max_iterations": 0}, r"ranking.cw.max_iterations is 0"),
    ({"optimizer.decay": (0.1,)}, r"optimizer.decay is \(0.1,\); it takes \(\(epoch, value\), ...\)"),
    ({"ranking.agreement_examples": 5000}, r"ranking.agreement_examples is 5000; .* data.num_train=800"),
    ({"ranking.source": "vanila"}, r"ranking.source is 'vanila'; it is a run such as 'vanilla/seed_0', or a folder"),
    ({"ranking.source": ""}, r"ranking.source is ''"),
]


@pytest.mark.parametrize(("overrides", "message"), MISTAKES)
def test_a_mistake_is_told_in_one_line(overrides, message):
    config = digits.get_config("ar_adals")
    config.update_from_flattened_dict(overrides)
    with pytest.raises(UserError, match=message) as error:
        checks.check_config(config, num_devices=2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["vanilla", "label_smoothing", "adals", "ar_adals"])
@pytest.mark.parametrize("file", [digits, cifar10])
def test_every_preset_passes(file, method):
    for size in ("", *file.SIZES):
        config = file.get_config(f"{method},{size}")
        checks.check_config(config, num_devices=4)
        assert config.name == method


def test_alpha_of_a_method_that_does_not_use_it_is_not_looked_at():
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
