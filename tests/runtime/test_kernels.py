"""Which kernels a CPU's convolutions have: what is tried, what a broken trial leads to, what is remembered."""

import logging
import platform
import subprocess
import sys
import types

import jax
import jaxlib
import pytest

from arada.errors import UserError
from arada.models import onednn
from arada.runtime import kernels
from configs import base


def config_of(asked="auto", **overrides):
    config = base.config()
    config.run.cpu_kernels = asked
    config.update_from_flattened_dict(overrides)
    return config


@pytest.fixture
def fit(monkeypatch, tmp_path):
    """A machine for which a trial would decide, and which remembers none."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(kernels, "TRIED", (jaxlib.__version__,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kernels._failed_trial.cache_clear()
    yield
    kernels._failed_trial.cache_clear()


def chosen(caplog, config, devices=None):
    """What is chosen, and the last line about it."""
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="arada"):
        found = kernels.choose(config, devices or jax.devices()[:1])
    return found, caplog.messages[-1] if caplog.messages else ""


def device(of):
    return types.SimpleNamespace(platform=of)


def unfit(monkeypatch):
    """(what is wrong, devices, overrides, what to do so that it is)"""
    one = [device("cpu")]
    return [
        ("there are 2 devices", one * 2, {}, lambda: None),
        ("model.dtype is 'bfloat16'", one, {"model.dtype": "bfloat16"}, lambda: None),
        ("oneDNN was tried with 0.0.1", one, {}, lambda: monkeypatch.setattr(kernels, "TRIED", ("0.0.1",))),
        ("on aarch64", one, {}, lambda: monkeypatch.setattr(platform, "machine", lambda: "aarch64")),
        ("this is darwin", one, {}, lambda: monkeypatch.setattr(sys, "platform", "darwin")),
    ]


@pytest.mark.parametrize("case", range(5))
def test_where_it_is_not_even_tried(fit, monkeypatch, caplog, case):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("no trial is needed"))
    reason, devices, overrides, prepare = unfit(monkeypatch)[case]
    prepare()
    found, line = chosen(caplog, config_of(**overrides), devices)
    assert found == "stock"
    assert line.startswith("run.cpu_kernels=auto: convolutions by XLA, because ")
    with pytest.raises(UserError, match=f"run.cpu_kernels is 'onednn', but .*{reason}.*; set it to 'auto' or 'stock'"):
        kernels.choose(config_of("onednn", **overrides), devices)


def test_other_platforms_hear_nothing_of_it(fit, caplog):
    assert chosen(caplog, config_of(), [device("tpu")]) == ("stock", "")
    with pytest.raises(UserError, match="the platform is gpu"):
        kernels.choose(config_of("onednn"), [device("gpu")])


def test_stock_needs_no_trial(fit, monkeypatch, caplog):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("no trial is needed"))
    assert chosen(caplog, config_of("stock")) == ("stock", "")


def dies(monkeypatch, tmp_path, statement):
    """Lets every Python process that is started from now on die of `statement` at its start."""
    (tmp_path / "sitecustomize.py").write_text(f"import os, signal, sys\n{statement}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_a_trial_that_aborts_is_survived_and_outcome_file(fit, monkeypatch, caplog, tmp_path):
    dies(monkeypatch, tmp_path, "print('wrong dims', file=sys.stderr, flush=True)\nos.abort()")
    found, line = chosen(caplog, config_of())
    assert found == "stock"
    assert line.endswith("because its trial ended with code -6 (wrong dims)")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("tried again"))
    kernels._failed_trial.cache_clear()
    assert chosen(caplog, config_of()) == ("stock", line)
    with pytest.raises(UserError, match="its trial ended with code -6"):
        kernels.choose(config_of("onednn"), jax.devices()[:1])
    # Another code, another trial.
    monkeypatch.setattr(onednn, "__file__", __file__)
    kernels._failed_trial.cache_clear()
    with pytest.raises(pytest.fail.Exception, match="tried again"):
        kernels.choose(config_of(), jax.devices()[:1])


def test_a_trial_that_was_killed_is_repeated(fit, monkeypatch, caplog, tmp_path):
    dies(monkeypatch, tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert "code -9 (no message)" in chosen(caplog, config_of())[1]
    kernels._failed_trial.cache_clear()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: types.SimpleNamespace(returncode=0))
    assert chosen(caplog, config_of())[0] == "onednn"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(subprocess.TimeoutExpired("python", 300), "took longer than 300 s"), (OSError("no memory"), "no memory")],
)
def test_a_trial_that_cannot_be_made(fit, monkeypatch, caplog, error, reason):
    def run(*_, **__):
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    found, line = chosen(caplog, config_of())
    assert (found, reason in line) == ("stock", True)


def test_a_folder_that_cannot_be_written_ends_nothing(fit, monkeypatch, caplog, tmp_path):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: types.SimpleNamespace(returncode=0))
    found, line = chosen(caplog, config_of())
    assert found == "onednn"
    assert line.startswith("run.cpu_kernels=auto: convolutions by oneDNN")
    assert any("will be repeated next time" in message for message in caplog.messages)


def test_the_trial_finds_a_wrong_result(monkeypatch, capsys):
    """With XLA in oneDNN's place, so that it runs on any machine: right, and then wrong in one gradient."""
    wrong = 1.0

    def product(x, y):
        return wrong * (x.T @ y)

    monkeypatch.setattr(kernels, "_TRIAL", ((3, 4, 8, 4, 1, 1),))
    monkeypatch.setattr(onednn, "transposed_product", product)
    kernels.trial()
    wrong = 1.0001
    with pytest.raises(SystemExit) as ended:
        kernels.trial()
    assert ended.value.code == kernels._DIFFERS
    assert "a result of shape (1, 1, 8, 4)" in capsys.readouterr().err
