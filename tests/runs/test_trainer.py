import logging

import pytest

from arada.experiment import Experiment
from arada.runs.trainer import Trainer
from configs import digits

# 128 images in batches of 32.
STEPS = 4


@pytest.mark.parametrize(("momentum", "averaged"), [(0.99, 100), (0.8, 5)])
def test_statistics_older_than_an_epoch_are_reported_before_training(tmp_path, caplog, momentum, averaged):
    warnings = trainer_warnings(tmp_path, caplog, momentum)
    assert warnings == [
        f"model.batch_norm_momentum is {momentum}: batch norm averages the last {averaged} steps, but an epoch has "
        f"{STEPS}, so validation sees statistics of older weights, and soft labels learn from it. Set it to 0.75 or "
        f"less"
    ]


@pytest.mark.parametrize("momentum", [0.75, 0.0])
def test_statistics_of_an_epoch_or_less_are_as_they_should_be(tmp_path, caplog, momentum):
    assert trainer_warnings(tmp_path, caplog, momentum) == []


def trainer_warnings(path, caplog, momentum):
    config = digits.get_config("vanilla,testing")
    config.model.batch_norm_momentum = momentum
    experiment = Experiment(config, path)
    with caplog.at_level(logging.WARNING, logger="arada"):
        Trainer(config, experiment.workdir, experiment.splits, experiment.replicas)
    return [record.getMessage() for record in caplog.records if record.name == "arada.runs.trainer"]
