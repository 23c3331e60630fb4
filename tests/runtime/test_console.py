"""What the commands print reaches any terminal."""

import os
import subprocess
import sys


def test_an_ascii_terminal_shows_the_rest_of_a_table():
    program = "from arada.runtime import console; console.start_logging(); print('0.9 ± 0.1')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout == b"0.9 ? 0.1\n"
