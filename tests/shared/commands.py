"""Commands as a user gives them, several by one process: a command that ends in a mistake mostly imports."""

import json
import os
import subprocess
import sys
import tempfile
from typing import NamedTuple

# What takes seconds to import is imported once. The command itself, its flags among it, is imported by each child.
PROGRAM = """
import json, os, runpy, sys
import arada.experiment
folder, commands = json.load(sys.stdin)
for number, (module, *arguments) in enumerate(commands):
    child = os.fork()
    if not child:
        for stream in (1, 2):
            os.dup2(os.open(f"{folder}/{number}.{stream}", os.O_CREAT | os.O_WRONLY), stream)
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit()
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
"""


class Done(NamedTuple):
    """What is left of a command."""

    returncode: int
    stdout: str
    stderr: str


def run(*commands, **environment):
    """What each of (module, argument, ...) ended with, as `python -m module argument ...`, one after the other."""
    with tempfile.TemporaryDirectory() as folder:

        def written(name):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                return file.read()

        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=json.dumps([folder, commands]),
            env=os.environ | {"XLA_FLAGS": ""} | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        codes = map(int, done.stdout.split())
        return [Done(code, written(f"{number}.1"), written(f"{number}.2")) for number, code in enumerate(codes)]
