"""A TPU slice that is asked for, taken away and asked for again, by a gcloud that pretends."""

import json
import os
import shlex
import shutil
import signal

import pytest
from scripts import HERE, LAUNCH, TPU, bash, dry, program, start_as_a_terminal, wait_for


def test_tpu_commands():
    describe, create, bundle, copy, install, train, delete = dry(
        "tpu_imagenet.sh", "adals", "--config.seeds=(0,)", **TPU
    )
    queue = ["gcloud", "compute", "tpus", "queued-resources"]
    machine = ["gcloud", "compute", "tpus", "tpu-vm"]
    assert describe == [*queue, "describe", "arada", *HERE, "--format=value(state.state)"]
    slice_ = ["--node-id=arada", "--accelerator-type=v4-64", "--runtime-version=tpu-ubuntu2204-base", "--spot"]
    assert create == [*queue, "create", "arada", *HERE, *slice_]
    assert bundle == ["git", "bundle", "create", "--quiet", "/tmp/arada.bundle", "HEAD"]
    assert copy == [*machine, "scp", "/tmp/arada.bundle", "arada:", *HERE, "--worker=all"]
    for command in (install, train):
        assert command[:-1] == [*machine, "ssh", "arada", *HERE, "--worker=all"]
    assert "JAX_FOR=tpu" in install[-1]
    assert install[-1].endswith("make_environment requirements.txt")
    of_config = ["--config=configs/imagenet.py:adals", "--config.run.data_dir=gs://b/tfds", "--config.seeds=(0,)"]
    exported, both = train[-1].removeprefix("--command=cd arada; ").split("; ")
    assert exported.split()[1:] == [
        *("JAX_COMPILATION_CACHE_DIR=gs://b/imagenet/compiled", "TFDS_DATA_DIR=gs://b/tfds"),
    ]
    python = [".venv/bin/python", "-m"]
    assert [shlex.split(command) for command in both.split(" && ")] == [
        [*python, "arada.doctor", *of_config],
        [*python, "arada.main", "--workdir=gs://b/imagenet", *of_config],
    ]
    assert delete == [*queue, "delete", "arada", *HERE, "--force", "--quiet"]
    assert dry("tpu_imagenet.sh", "--delete", **TPU) == [delete]


def test_a_study_on_a_slice():
    study = "configs/studies/any.py"
    train = dry("tpu_imagenet.sh", study, "--seeds=0", DOCTOR="0", **TPU)[5]
    command = train[-1].rpartition("; ")[2]
    assert shlex.split(command)[2:] == ["arada.study", f"--study={study}", "--workdir=gs://b/imagenet", "--seeds=0"]


def test_another_slice():
    create = dry("tpu_imagenet.sh", NAME="small", TYPE="v5litepod-16", RUNTIME="v2-alpha-tpuv5-lite", SPOT="0", **TPU)[
        1
    ]
    assert create[5:] == [
        *("small", *HERE, "--node-id=small", "--accelerator-type=v5litepod-16"),
        "--runtime-version=v2-alpha-tpuv5-lite",
    ]


def test_a_slice_needs_a_project_and_folders():
    told = bash("tpu_imagenet.sh", "--dry-run", code=1).stderr
    assert "PROJECT: names the Google Cloud project" in told
    assert COSTS not in told
    only_here = {key: TPU[key] for key in ("PROJECT", "ZONE")}
    assert "WORKDIR: is a gs:// folder" in bash("tpu_imagenet.sh", "--dry-run", code=1, **only_here).stderr


def test_without_gcloud_nothing_is_waited_for(tmp_path):
    for name in ("bash", "dirname", "mktemp"):
        (tmp_path / name).symlink_to(shutil.which(name))
    assert bash("tpu_imagenet.sh", code=1, PATH=str(tmp_path), **TPU).stderr.endswith("gcloud: not found\n")


GCLOUD = """#!/usr/bin/env python3
import json, pathlib, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
plan = pathlib.Path(__file__).with_name("plan.json")
told = json.loads(plan.read_text())
verb = sys.argv[4] if sys.argv[4] != "ssh" else ("train" if "arada.main" in sys.argv[-1] else "install")
if sys.argv[1] == "--version": sys.exit()
told["calls"].append(verb)
answer, code = told["answers"][verb].pop(0) if told["answers"].get(verb) else ("", 0)
plan.write_text(json.dumps(told))
if answer == "wait": time.sleep(20)
print(answer, end="", file=sys.stderr if code and verb != "train" else sys.stdout)
sys.exit(code)
"""


def pretend_gcloud(folder, **answers):
    """A PATH with a gcloud whose answers to each verb are (text, exit code); its calls are in plan.json."""
    for name, text in (("gcloud", GCLOUD), ("sleep", "#!/bin/sh\n"), ("git", "#!/bin/sh\n")):
        program(folder / name, text)
    (folder / "plan.json").write_text(json.dumps({"answers": answers, "calls": []}))
    return f"{folder}:{os.environ['PATH']}"


def pretend(folder, code=0, **answers):
    """Runs the script with that gcloud; returns (calls, process)."""
    path = pretend_gcloud(folder, **answers)
    done = bash("tpu_imagenet.sh", code=code, PATH=path, TMPDIR=str(folder), **TPU)
    return json.loads((folder / "plan.json").read_text())["calls"], done


RUN = ["scp", "install", "train"]
MISSING = ("ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource 'arada' was not found", 1)
COSTS = "The slice still exists and costs money: bash launch/tpu_imagenet.sh --delete\n"


def test_a_preempted_slice_is_asked_for_again(tmp_path):
    states = [MISSING, ("PROVISIONING", 0), ("ACTIVE", 0), ("SUSPENDED", 0), ("SUSPENDED", 0), MISSING, ("ACTIVE", 0)]
    calls, done = pretend(
        tmp_path, describe=states, train=[("step 40/320", 255), ("Report: gs://b/report/index.html\nDone: all", 0)]
    )
    first = ["describe", "create", "describe", "describe", *RUN]
    assert calls == [*first, "describe", "describe", "delete", "describe", "create", "describe", *RUN, "delete"]
    assert "costs money" not in done.stderr


def test_a_slice_that_cannot_be_seen_is_not_asked_for_again(tmp_path):
    lost = [("ERROR: (gcloud) cannot connect\nCheck your network.", 1)] * 2
    states = [*lost, ("ACTIVE", 0), *lost, ("ACTIVE", 0)]
    calls, done = pretend(tmp_path, describe=states, train=[("connection lost", 255), ("Done: all", 0)])
    assert calls == ["describe"] * 3 + RUN + ["describe"] * 3 + RUN + ["delete"]
    assert done.stderr.splitlines() == ["ERROR: (gcloud) cannot connect (asked again in a minute)"] * 4


@pytest.mark.parametrize(
    "answers",
    [
        {"describe": [MISSING], "create": [("ERROR: ALREADY_EXISTS", 1)]},
        {"describe": [("ACTIVE", 0)] * 2, "train": [("error: no such field", 1)]},
        {"describe": [("ACTIVE", 0)], "train": [("Done: all", 0)], "delete": [("ERROR: cannot connect", 1)]},
    ],
    ids=["create", "train", "delete"],
)
def test_an_end_that_leaves_the_slice_says_what_it_costs(tmp_path, answers):
    _, done = pretend(tmp_path, code=1, **answers)
    assert done.stderr.endswith(COSTS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_slice_and_says_what_it_costs(tmp_path, number):
    path = pretend_gcloud(tmp_path, describe=[("ACTIVE", 0)], train=[("wait", 0)])
    running = start_as_a_terminal(LAUNCH / "tpu_imagenet.sh", env={"PATH": path, "TMPDIR": str(tmp_path)} | TPU)
    wait_for(tmp_path / "plan.json", '"train"]')  # the last of the calls
    os.killpg(running.pid, number)
    assert running.communicate(timeout=30)[1].endswith(COSTS)
    assert running.returncode == (130 if number == signal.SIGINT else -number)


def test_a_run_that_was_told_to_stop_goes_on(tmp_path):
    calls, _ = pretend(tmp_path, describe=[("ACTIVE", 0)] * 2, train=[("stopped at step 40", 0), ("Done: all", 0)])
    assert calls == ["describe", *RUN, "describe", *RUN, "delete"]


def test_a_run_of_one_stage_is_done_without_a_report(tmp_path):
    calls, _ = pretend(tmp_path, describe=[("ACTIVE", 0)], train=[("arada-w0: Done: train", 0)])
    assert calls == ["describe", *RUN, "delete"]


def test_a_run_that_fails_is_not_repeated(tmp_path):
    calls, done = pretend(tmp_path, describe=[("ACTIVE", 0)] * 2, train=[("error: no such field", 1)], code=1)
    assert calls == ["describe", *RUN, "describe"]
    assert "error: the run failed, and the slice still exists; the same command continues" in done.stderr
