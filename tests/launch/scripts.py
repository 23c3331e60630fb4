"""How tests run the scripts of launch/, dry or with programs that pretend."""

import os
import pathlib
import re
import shlex
import stat
import subprocess
import sys
import time

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
TPU = {"PROJECT": "mine", "ZONE": "us-central2-b", "WORKDIR": "gs://b/imagenet", "DATA_DIR": "gs://b/tfds"}
HERE = ["--project=mine", "--zone=us-central2-b"]


def bash(script, *arguments, code=0, **environment):
    done = subprocess.run(
        ["bash", LAUNCH / script, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nowhere", "ESTIMATE": "0"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done


def dry(script, *arguments, **environment):
    """The commands that the script would run, split as a shell does."""
    return [shlex.split(line) for line in split_lines(bash(script, "--dry-run", *arguments, **environment).stdout)]


def split_lines(text):
    # $'...' is how bash quotes a command of several lines; shlex knows '...' alone.
    return [re.sub(r"\$'", "'", line) for line in text.splitlines()]


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(stat.S_IRWXU)


def wait_for(path, text):
    deadline = time.monotonic() + 30
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def start_as_a_terminal(script, **options):
    """In a process group of its own, for signals, none of which is ignored from the beginning."""
    default = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp('bash', sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", default, "bash", script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )
