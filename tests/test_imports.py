"""The parts that others import bring along nothing they do not need."""

import subprocess
import sys

import pytest

PARTS = {
    # Each with the checks of what they are given.
    "arada.soft_labels": {"arada", "arada.inputs", "arada.soft_labels"},
    "arada.attacks": {"arada", "arada.inputs", "arada.attacks"},
    "arada.metrics": {"arada", "arada.inputs", "arada.metrics"},
    "arada.calibrators": {"arada", "arada.inputs", "arada.calibrators"},
    "arada.models": {"arada", "arada.inputs", "arada.models", "arada.registry"},
}


def modules_after(statement):
    code = f"{statement}; import sys; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_nothing_else_of_the_project(part):
    modules = modules_after(f"import {part}")
    of_project = {name for name in modules if name.split(".")[0] == "arada"}
    assert {name for name in of_project if not name.startswith(f"{part}.")} == PARTS[part]
    assert not modules & {"tensorflow", "clu", "orbax", "matplotlib"}


def test_loading_a_model_needs_neither_tensorflow_nor_clu():
    assert not modules_after("import arada; arada.load") & {"tensorflow", "clu", "sklearn", "matplotlib"}
