"""Tasks as jobs: what submitit gets, and what it refuses."""

import sys

import pytest

from arada.errors import UserError
from arada.runtime import cluster as clusters


def test_a_parameter_that_submitit_does_not_know(cluster, tmp_path):
    with pytest.raises(UserError, match="--cluster=slurm: Unknown argument: timeout"):
        clusters.submitter("slurm", tmp_path, "sweeps", {"timeout": 3})


def test_jobs_are_handed_over_in_a_folder(cluster):
    with pytest.raises(UserError, match="--workdir=gs://bucket/a: submitit needs a folder on a file system"):
        clusters.submitter("slurm", "gs://bucket/a", "sweeps", {})


def test_a_cluster_needs_submitit(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="--cluster needs submitit: pip install submitit"):
        clusters.submitter("local", tmp_path, "sweeps", {})


def test_parameters_of_jobs_are_read_from_text():
    assert clusters.parameters(["slurm_partition=gpu", "timeout_min=60"], lambda text: text.upper()) == {
        "slurm_partition": "GPU",
        "timeout_min": "60",
    }
