"""What severities are for: the higher, the less a trained model recognises."""

import os

import numpy as np
import pytest
from sklearn import datasets, svm

from arada.data.corruptions import CIFAR10_TYPES, SEVERITIES, corrupt
from arada.experiment import Experiment
from arada.runtime import files
from configs import cifar10

WITHOUT_PICTURES = [name for name in CIFAR10_TYPES if name != "frost"]
# Types with one number, which grows; those of the others do not all.
ONE_STRENGTH = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "gaussian_blur", "zoom_blur")
ONE_STRENGTH += ("brightness", "contrast", "pixelate", "jpeg_compression")


def test_accuracy_falls_with_severity():
    """A support vector machine on digits of 32 x 32 pixels, which most types hardly disturb: their mean tells."""
    digits = datasets.load_digits()
    images = (48 + 10 * np.kron(digits.images, np.ones((1, 4, 4)))).astype(np.uint8)[..., None].repeat(3, axis=-1)
    test, labels = images[1200:1320], digits.target[1200:1320]

    def features(images):
        return images.mean(axis=-1).reshape(len(images), -1) / 255

    model = svm.SVC().fit(features(images[:1200]), digits.target[:1200])

    def accuracy(name, severity):
        return model.score(features(corrupt(test, np.arange(len(test)), name, severity)), labels)

    by_type = {name: [accuracy(name, severity) for severity in SEVERITIES] for name in WITHOUT_PICTURES}
    clean = model.score(features(test), labels)
    assert clean > 0.95
    assert np.all(np.diff([clean, *np.mean(list(by_type.values()), axis=0)]) < 0)
    for name in ("fog", "contrast", "brightness", "snow"):
        assert np.all(np.diff(by_type[name]) <= 0.02), (name, by_type[name])
        assert by_type[name][-1] < clean - 0.05


@pytest.mark.slow
@pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="TFDS_DATA_DIR names no folder with a prepared cifar10")
def test_a_network_s_accuracy_on_cifar10_falls_with_severity(tmp_path, capsys):
    config = cifar10.get_config("vanilla,laptop")
    config.update_from_flattened_dict(
        {
            "data.num_validation": 100,
            "data.num_test": 1000,
            "training.epochs": 12,
            "optimizer.decay": ((9, 0.1),),
            "evaluation.shift_source": "generated",
            "evaluation.shifts": ("cifar10",),
        }
    )
    experiment = Experiment(config, tmp_path)
    experiment.run("train")
    experiment.run("evaluate")
    run = files.read_json(experiment.workdir.evaluation)["methods"]["vanilla"]["runs"]["0"]
    clean = run["test"]["accuracy"]
    by_type = {name: [at["accuracy"] for at in of_type] for name, of_type in run["shift"].items()}
    assert set(by_type) >= set(WITHOUT_PICTURES)
    mean = np.mean(list(by_type.values()), axis=0)
    with capsys.disabled():
        for name, found in {"mean": mean, **by_type}.items():
            print(f"\n{name:<18} {100 * clean:.1f} -> {' '.join(f'{100 * value:.1f}' for value in found)}", end="")
    assert np.all(np.diff([clean, *mean]) < 0)
    # A thousand images are worth two points.
    assert all(found[-1] < clean for found in by_type.values())
    for name in ONE_STRENGTH:
        assert np.all(np.diff(by_type[name]) < 0.025), name
        assert by_type[name][-1] < by_type[name][0], name
