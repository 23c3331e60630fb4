"""What JAX is told before it opens its devices reaches it, or the user."""

import os
import subprocess
import sys

import jax
import ml_collections
import pytest

from arada.errors import UserError
from arada.runtime import backend

PROGRAM = """
import sys, os
import jax, ml_collections
from arada.runtime import backend

run = ml_collections.ConfigDict({"deterministic": True, "compilation_cache": sys.argv[1]})
backend.configure(run)
assert os.environ["XLA_FLAGS"] == "--xla_force_host_platform_device_count=2 --xla_gpu_deterministic_ops=true"
assert len(jax.devices()) == 2  # XLA knows both flags
jax.jit(lambda x: x + 1)(1.0).block_until_ready()
backend.configure(run)  # as the next experiment of a process does
"""


def run_of(deterministic=False, compilation_cache=""):
    return ml_collections.ConfigDict({"deterministic": deterministic, "compilation_cache": compilation_cache})


def test_flags_and_cache_reach_jax(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "cache")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / "cache").glob("jit_*"))


def test_too_late_to_be_deterministic(monkeypatch):
    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    with pytest.raises(UserError, match=r"run.deterministic is True, but JAX is in use already; set XLA_FLAGS=--xla"):
        backend.configure(run_of(deterministic=True))
    monkeypatch.setenv("XLA_FLAGS", backend.DETERMINISTIC)
    backend.configure(run_of(deterministic=True))


def test_by_default_nothing_is_set(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    before = jax.config.jax_compilation_cache_dir
    backend.configure(run_of())
    assert os.environ["XLA_FLAGS"] == ""
    assert jax.config.jax_compilation_cache_dir == before


def test_runs_are_in_float32_whatever_the_environment_says(caplog):
    jax.config.update("jax_enable_x64", True)
    try:
        backend.configure(run_of())
        assert not jax.config.jax_enable_x64
        assert "JAX_ENABLE_X64 is set; it is switched off" in caplog.text
    finally:
        jax.config.update("jax_enable_x64", False)
