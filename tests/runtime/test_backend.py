"""Settings for JAX from before it opens its devices reach it, or the user."""

import os
import pathlib
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest

from arada import models
from arada.errors import UserError
from arada.runtime import backend

PROGRAM = """
import sys, os
import jax, ml_collections
from arada.runtime import backend

run = ml_collections.ConfigDict({"deterministic": True, "compilation_cache": sys.argv[1]})
backend.configure(run, sys.argv[2])
assert os.environ["XLA_FLAGS"] == (
    "--xla_force_host_platform_device_count=2 --xla_gpu_exclude_nondeterministic_ops=true"
)
assert len(jax.devices()) == 2  # XLA knows both flags
jax.jit(lambda x: x + 1)(1.0).block_until_ready()
backend.configure(run, sys.argv[2])  # as the next experiment of a process does
"""


def run_of(deterministic=False, compilation_cache=""):
    return ml_collections.ConfigDict({"deterministic": deterministic, "compilation_cache": compilation_cache})


@pytest.mark.parametrize(("asked", "used"), [("cache", "cache"), ("", "work/compiled")])
def test_flags_and_cache_reach_jax(tmp_path, asked, used):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.getcwd(),
    }
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    cache = str(tmp_path / asked) if asked else ""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, cache, str(tmp_path / "work")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / used).glob("jit_*"))


def test_too_late_to_be_deterministic(monkeypatch, tmp_path):
    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    with pytest.raises(UserError, match=r"run.deterministic is True, but JAX is already in use; set XLA_FLAGS=--xla"):
        backend.configure(run_of(deterministic=True), tmp_path)
    monkeypatch.setenv("XLA_FLAGS", backend.DETERMINISTIC)
    backend.configure(run_of(deterministic=True), tmp_path)


def test_what_the_environment_says_of_the_cache_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", "")
    before = jax.config.jax_compilation_cache_dir  # of all tests
    assert before
    backend.configure(run_of(), tmp_path)
    assert os.environ["XLA_FLAGS"] == ""
    assert jax.config.jax_compilation_cache_dir == before


def test_runs_are_in_float32_whatever_the_environment_says(caplog, tmp_path):
    jax.config.update("jax_enable_x64", True)
    try:
        backend.configure(run_of(), tmp_path)
        assert not jax.config.jax_enable_x64
        assert "JAX_ENABLE_X64 is set; it is switched off" in caplog.text
    finally:
        jax.config.update("jax_enable_x64", False)


def test_too_little_memory_names_the_field():
    with pytest.raises(UserError, match=r"too little memory \(Out of memory .* 3 bytes.\); lower training.batch_size"):  # noqa: SIM117
        with backend.fitting("lower training.batch_size"):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes.\nmore")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), backend.fitting(""):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("Unable to initialize backend 'cuda':\n no driver"),
            r"\(Unable to initialize backend 'cuda': no",
        ),
        (AssertionError(), r"\(no such platform is installed\)"),
    ],
)
def test_devices_that_cannot_be_opened_are_reported_in_one_line(monkeypatch, error, message):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(UserError, match=rf"^JAX cannot open its devices {message}.*JAX_PLATFORMS=cpu$"):
        backend.devices()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the maps of a process")
def test_programs_of_finished_runs_give_their_maps_back():
    def maps():
        return pathlib.Path("/proc/self/maps").read_bytes().count(b"\n")

    model, images = models.build("resnet_v2", 10, depth=11, width=4), np.ones((2, 8, 8, 1), np.float32)
    variables = model.init(jax.random.key(0), images)
    before = maps()
    kept = []
    for number in range(3):
        program = jax.jit(lambda variables, number=number: number * model.apply(variables, images, train=False))
        jax.block_until_ready(program(variables))
        kept.append(program)  # as a trainer of a study that has ended does
    grown = maps()
    backend.drop_programs()
    assert maps() <= before < grown
