"""The parts that others import bring along nothing they do not need."""

import json
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


STATEMENTS = (*(f"import {part}" for part in PARTS), "import arada; arada.load")
# A process for each; what all of them import is imported once.
PROGRAM = """
import json, os, sys
import flax, optax
for statement in sys.argv[1:]:
    if not os.fork():
        exec(statement)
        print(json.dumps([statement, list(sys.modules)]))
        sys.exit()
    assert os.wait()[1] == 0
"""


@pytest.fixture(scope="module")
def modules_after():
    """By statement, the names of the modules that are imported after it."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *STATEMENTS], capture_output=True, text=True, check=True)
    return {statement: set(modules) for statement, modules in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_nothing_else_of_the_project(modules_after, part):
    modules = modules_after[f"import {part}"]
    of_project = {name for name in modules if name.split(".")[0] == "arada"}
    assert {name for name in of_project if not name.startswith(f"{part}.")} == PARTS[part]
    assert not modules & {"tensorflow", "clu", "orbax", "matplotlib"}


def test_loading_a_model_needs_neither_tensorflow_nor_clu(modules_after):
    assert not modules_after[STATEMENTS[-1]] & {"tensorflow", "clu", "sklearn", "matplotlib"}
