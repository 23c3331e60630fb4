"""The kernels of a run on a CPU: recorded beside its numbers, and kept by what goes on."""

import pytest

from arada import experiment
from arada.errors import UserError
from arada.evaluation import summary
from arada.experiment import Experiment
from arada.models import cpu
from arada.runs import workdir as workdirs
from arada.runtime import kernels
from configs import digits


def config_of(asked, **overrides):
    config = digits.get_config("vanilla,testing")
    config.update_from_flattened_dict(
        {"run.cpu_kernels": asked, "run.num_devices": 1, "training.epochs": 1, "seeds": (0,), **overrides}
    )
    return config


@pytest.fixture
def traced(monkeypatch):
    """A machine that has oneDNN, whatever it has: the names of the kernels that are traced."""
    names, (forward, backward) = [], cpu._ON_CPU["stock"]

    def noting(name):
        def noted(*arrays, **options):
            names.append(name)
            return forward(*arrays, **options)

        return noted, backward

    for name in cpu.KERNELS:
        monkeypatch.setitem(cpu._ON_CPU, name, noting(name))
    monkeypatch.setattr(kernels, "_obstacle", lambda *_: "")
    monkeypatch.setattr(kernels, "_failed_trial", lambda: "")
    return names


@pytest.fixture
def chosen(monkeypatch, tmp_path):
    """(asked, available) -> the kernels that the run in `tmp_path` is trained with, which takes no step."""
    used = []

    class Trainer:
        def __init__(self, config, workdir, splits, replicas):
            self.replicas = replicas

        def train(self, seed):
            used.append(self.replicas.cpu_kernels)

    monkeypatch.setattr(experiment.trainer, "Trainer", Trainer)

    def train(asked, available):
        monkeypatch.setattr(kernels, "_obstacle", lambda *_: "" if available == "onednn" else "it is not there")
        monkeypatch.setattr(kernels, "_failed_trial", lambda: "")
        Experiment(config_of(asked), tmp_path).run("train")
        return used[-1]

    return train


def made_with(path):
    return workdirs.stored(path)["made_with"]


def test_a_run_and_its_ranking_say_what_they_were_made_with(traced, tmp_path):
    short = {"ranking.attack": "first_order", "evaluation.shifts": (), "evaluation.out_of_distribution": ()}
    of = Experiment(config_of("auto", **short), tmp_path)
    of.run("train")
    of.run("rank")
    for folder in (of.workdir.run("vanilla", 0), of.workdir.ranking("vanilla/seed_0")):
        assert made_with(folder)["cpu_kernels"] == "onednn"
        assert summary._hardware(made_with(folder)).endswith(", kernels by oneDNN")
    assert "onednn" in traced
    traced.clear()
    of.predict()
    assert set(traced) == {"stock"}


@pytest.mark.parametrize(
    ("began", "asked", "available", "expected"),
    [
        ("stock", "auto", "onednn", "stock"),
        ("onednn", "auto", "onednn", "onednn"),
        ("onednn", "auto", "stock", "stock"),  # on another machine
        ("stock", "onednn", "onednn", "onednn"),
        ("onednn", "stock", "onednn", "stock"),
    ],
)
def test_a_run_that_goes_on_keeps_its_kernels_unless_told_otherwise(
    chosen, tmp_path, began, asked, available, expected
):
    assert chosen(began, "onednn") == began
    assert chosen(asked, available) == expected
    used = {began, expected} - {"stock"}
    assert {made_with(tmp_path / "runs" / "vanilla" / "seed_0").get("cpu_kernels")} - {None} == used


def test_kernels_that_are_missing_end_before_any_compute(chosen, tmp_path):
    with pytest.raises(UserError, match=r"run.cpu_kernels is 'onednn', but it is not there; set it to 'auto'"):
        chosen("onednn", "stock")
    assert not (tmp_path / "runs").exists()
