"""Hours, memory and money by hand from given programs."""

import jax
import pytest

from arada.machines import cost
from arada.machines.speed import Ceilings, Program, Speeds
from configs import digits


def program(seconds, images, **fields):
    known = {"dispatch_seconds": 0.001, "compile_seconds": 3.0, "operations": 1e9, "moved": 1e8}
    return Program(images, seconds, **known | {"batch_bytes": 1e9, "fixed_bytes": 1e8} | fields)


SPEEDS = Speeds(program(0.5, 50), program(0.2, 100), program(0.3, 100), program(4.0, 100))


def config_of(**fields):
    config = digits.get_config("ar_adals")
    config.seeds = (0, 1)
    config.evaluation.update(shifts=("noise",), severities=(1, 5), out_of_distribution=())
    config.run.update(evaluation_batch_size=100, ranking_batch_size=100)
    config.update_from_flattened_dict(fields)
    return config


def test_stages_by_hand():
    found = cost.stages(config_of(), SPEEDS, 1, num_test=497)
    # Two vanilla runs, which are ranked, and two of the method; 800 images in 8 batches of 100, 40 epochs.
    assert found.training == pytest.approx(4 * 40 * 8 * 1.0)
    assert found.validation == pytest.approx(4 * 40 * 5 * 0.2)
    # 800, 500 and 497 images by two runs: 8, 5 and 5 batches.
    assert found.ranking == pytest.approx(2 * 18 * 4.0)
    # Test, validation and two shifted sets, five batches each, of two runs.
    assert found.predictions == pytest.approx(2 * 4 * 5 * 0.3)
    assert found.compiling == 5 * 3.0
    assert found.seconds == pytest.approx(sum(found))


def test_what_is_padded_is_computed():
    assert cost.stages(config_of(), SPEEDS, 4, num_test=497).ranking == pytest.approx(2 * (8 + 8 + 8) * 4.0)


def test_a_slow_host_is_the_time_of_a_step():
    found = cost.stages(config_of(), SPEEDS, 1, num_test=497, input_seconds=2.5)
    assert found.training == pytest.approx(4 * 40 * 8 * 2.5)


def found_of(config, speeds=SPEEDS, **fields):
    known = {"num_test": 497, "input_seconds": 0.01, "price": 7.2}
    return {
        finding.subject: finding
        for finding in cost.findings(config, Ceilings(4e9, 2e9), speeds, jax.devices()[:1], **known | fields)
    }


def test_findings_by_hand(monkeypatch):
    monkeypatch.setattr(cost, "memory_of", lambda device: 10_000_000_000)
    found = found_of(config_of())
    step = found["train step"].values
    assert step["step_seconds"] == 1.0  # measured on half a batch
    assert step["share_of_matrix_product"] == pytest.approx(1e9 / 0.5 / 4e9)
    assert step["share_of_copy"] == pytest.approx(1e8 / 0.5 / 2e9)
    assert found["input"].values["share"] == pytest.approx(0.01)
    # 0.1 GB of weights, 20 MB an image; 90 % of 10 GB.
    assert found["memory"].values["largest_batch_size"] == 445
    assert found["memory"].values["needed_gb"] == pytest.approx(2.1)
    experiment = found["experiment"].values
    assert experiment["dollars"] == pytest.approx(experiment["seconds"] / 3600 * 7.2)
    assert {finding.state for finding in found.values()} == {"ok"}


def test_a_batch_that_does_not_fit_is_wrong_and_the_way_out_fits(monkeypatch):
    monkeypatch.setattr(cost, "memory_of", lambda device: 1_000_000_000)
    found = found_of(config_of())["memory"]
    assert found.state == "wrong"
    # (0.9 GB - 0.1 GB) / 20 MB is 40 images: three parts of 100 would be 34, but only divisors do.
    assert found.remedy == "set training.batch_size=40 or less, or training.accumulate=4"


def test_a_host_slower_than_the_step_is_wrong():
    assert found_of(config_of(), input_seconds=1.5)["input"].state == "wrong"
    assert found_of(config_of(), input_seconds=0.7)["input"].state == "note"
    assert found_of(config_of(), input_seconds=None)["input"].state == "note"
