"""Four virtual CPU devices for every test, one hypothesis profile, and the door to the peers."""

import atexit
import contextlib
import gc
import importlib
import importlib.util
import os
import pathlib
import shutil
import sys
import tempfile
import types

# Before the first import of jax, by any test or plugin.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "--xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip()

# One compilation of a program for the whole session, its subprocesses included.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="arada_tests_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# Small ones too: an experiment compiles about a hundred of them, which took half of its time.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# PyTorch for GPUs imports triton when an optimizer is made, which ends the process if TensorFlow is already imported.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

import jax
import pytest
from hypothesis import settings

# No deadline: the first example of a shape compiles. Derandomised: a red test is red for everyone.
settings.register_profile("arada", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("arada")
settings.register_profile("thousands", deadline=None, derandomize=True, max_examples=5000)


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs():
    """Drops compiled programs before there are too many: each is mapped memory, of which Linux allows a process 65,530
    pieces (vm.max_map_count), and one piece more aborts it."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def quickly_compiled():
    """XLA leaves out most optimisations, here and in processes that a test starts: for a module whose programs run for
    less time than these take, and that asks no program to be fast or small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def one_convolution(quickly_compiled):
    """Digits of the `testing` size have a network of one convolution, in this process; others take the config file
    `one_convolution.CONFIG`."""
    import one_convolution

    from arada import models
    from configs import digits

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.BY_NAME, one_convolution.NAME, one_convolution.OneConvolution)
        patch.setitem(digits.SIZES["testing"], "model.name", one_convolution.NAME)
        yield


@pytest.fixture
def no_frost(monkeypatch):
    """The package with the pictures of frost is not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: find_spec(name) if name != "imagecorruptions" else None
    )


@pytest.fixture(scope="session")
def peer():
    """`peer(name)` imports an independent library. Without it the test skips; with ARADA_REQUIRE_PEERS=1 it fails."""

    def load(name):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reason = f"no {name} to compare with (tests/requirements-peers.txt): {error}"
            if os.environ.get("ARADA_REQUIRE_PEERS") == "1":
                pytest.fail(reason)
            pytest.skip(reason)

    return load


@pytest.fixture
def cluster(monkeypatch):
    """A submitit whose jobs run at once, in this process; its executors."""
    from arada.errors import UserError
    from arada.runtime import console

    executors = []

    class Job:
        def __init__(self, number, function, *arguments):
            self.job_id, self.error = f"7_{number}", None
            try:
                function(*arguments)
            except UserError as error:
                self.error = error

        def exception(self):
            return self.error

    class AutoExecutor:
        def __init__(self, folder, cluster):
            self.folder, self.cluster = folder, cluster
            executors.append(self)

        def update_parameters(self, **parameters):
            if "timeout" in parameters:
                raise NameError("Unknown argument: timeout")
            self.parameters = parameters

        def map_array(self, function, *arguments):
            return [Job(number, function, *of_job) for number, of_job in enumerate(zip(*arguments, strict=True))]

    monkeypatch.setitem(sys.modules, "submitit", types.SimpleNamespace(AutoExecutor=AutoExecutor))
    monkeypatch.setattr(console, "start_logging", lambda: None)
    return executors


# What shows that an installation works: the library against hand arithmetic, and an experiment from its config to its
# report. Below tests/.
QUICK = (
    "test_soft_labels.py",
    "test_calibrators.py",
    "metrics",
    "methods/test_method.py",
    "methods/test_soft_labels.py",
    "attacks/test_contract.py",
    "attacks/test_cw.py",
    "attacks/test_fmn.py",
    "attacks/test_subsets.py",
    "models/test_layers.py",
    "models/test_resnet_v2.py",
    "training/test_optimizers.py",
    "data/test_shifts.py",
    "data/test_splits.py",
    "data/sources/test_digits.py",
    "data/sources/test_npz.py",
    "evaluation/test_bootstrap.py",
    "evaluation/test_intervals.py",
    "evaluation/test_uncertainty.py",
    "reporting/test_tables.py",
    "runs/test_ranks.py",
    "runs/test_workdir.py",
    "checks",
    "test_configs.py",
    "test_experiment.py",
    "test_imports.py",
    "test_main.py",
)

# What takes a process longest comes first, so that the two of launch/test.sh end together. Below tests/.
LONGEST = (
    "runs/test_imported.py",
    "runtime/test_kill.py",
    "test_study.py",
    "test_registry.py",
    "runs/test_cpu_kernels.py",
    "evaluation/test_added.py",
    "stages/test_cifar10.py",
    "stages/test_two_processes.py",
    "launch/test_roofline.py",
    "launch/test_speed.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks what `launch/test.sh` runs without --all, and puts the longest modules first."""
    here = pathlib.Path(__file__).parent
    gone = [path for path in (*QUICK, *LONGEST) if not (here / path).exists()]
    assert not gone, f"tests/conftest.py names files that are no more: {gone}"
    quick = {here / path for path in QUICK}
    for item in items:
        if not quick.isdisjoint((item.path, *item.path.parents)):
            item.add_marker("quick")
    turn = {here / path: number for number, path in enumerate(LONGEST)}
    items.sort(key=lambda item: turn.get(item.path, len(turn)))
