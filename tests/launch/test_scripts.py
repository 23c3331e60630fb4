"""The scripts of launch/: every command by a dry run, and Slurm by programs that pretend."""

import ast
import contextlib
import importlib
import itertools
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scripts import LAUNCH, SCRIPTS, bash, dry, program, start_as_a_terminal, wait_for

from arada import checks


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_run_in_an_old_bash(script):
    """The 3.2 of macOS and others before 4.4, where an empty array is unset and much else is missing."""
    code = re.sub(r"(^|\s)#.*", "", script.read_text(), flags=re.MULTILINE)
    newer = r"\b(mapfile|readarray|coproc|local -[nA]|declare -[nA]|wait -n)\b|&>>|\|&|\$\{\w+(\^|,|@[A-Z])"
    assert not re.search(newer, code)
    for name in re.findall(r"\b(\w+)=\(\)", code):
        assert f"${{{name}[@]" not in code.replace(f'${{{name}[@]+"${{{name}[@]}}"}}', ""), name


@pytest.mark.parametrize("linter", ["shellcheck -x -P SCRIPTDIR -s bash -S warning *.sh", "hadolint Dockerfile"])
def test_scripts_are_clean(linter):
    program, *options = linter.split()
    if not shutil.which(program):
        pytest.skip(f"no {program} here")
    files = [str(path) for path in SCRIPTS] if options[-1] == "*.sh" else [str(LAUNCH / options[-1])]
    done = subprocess.run([program, *options[:-1], *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["gpu_cifar.sh", "slurm.sh", "tpu_imagenet.sh", "Dockerfile"])
def test_each_begins_with_what_it_costs(script):
    comment = itertools.takewhile(lambda line: line.startswith("#"), (LAUNCH / script).read_text().splitlines())
    assert re.search(r"\bCost\b.*\d (hours|GB)", "\n".join(comment), re.DOTALL)


def test_gpu_commands():
    arguments = "cifar10_wrn", "vanilla", "mixup", "--config.seeds=(0,)"
    prepare, doctor, *runs = dry("gpu_cifar.sh", *arguments, WORKDIR="/data/w")[1:]
    python = [".venv/bin/python", "-m"]
    assert prepare == [*python, "arada.prepare", "--config=configs/cifar10_wrn.py", "--config.seeds=(0,)"]
    assert doctor == [*python, "arada.doctor", "--config=configs/cifar10_wrn.py:vanilla", "--config.seeds=(0,)"]
    assert runs == [
        [*python, "arada.main", f"--config=configs/cifar10_wrn.py:{method}", "--workdir=/data/w", "--config.seeds=(0,)"]
        for method in ("vanilla", "mixup")
    ]
    assert [command[3].partition(":")[2] for command in dry("gpu_cifar.sh", DOCTOR="0")[2:]] == [
        *("vanilla", "label_smoothing", "adals", "ar_adals")
    ]


def test_a_study_on_a_gpu():
    study = "configs/studies/any.py"
    doctor, run = dry("gpu_cifar.sh", study, "--seeds=0,1")[1:]
    python = [".venv/bin/python", "-m"]
    assert doctor == [*python, "arada.doctor"]
    assert run == [*python, "arada.study", f"--study={study}", "--workdir=workdir/any", "--seeds=0,1"]
    assert "a study names its methods itself" in bash("gpu_cifar.sh", "--dry-run", study, "vanilla", code=1).stderr


def test_a_dry_run_tells_hours_and_dollars(project):
    program(project / ".venv" / "bin" / "python", '#!/bin/sh\necho "| A100 80 GB | $* |"\n')
    told = bash(project / "launch" / "gpu_cifar.sh", "--dry-run", "cifar10", "adals", ESTIMATE="1")
    assert (
        told.stderr == "| A100 80 GB | -m launch.benchmarks.roofline --config=configs/cifar10.py:adals --devices=1 |\n"
    )
    assert "A100" not in told.stdout


def test_slurm_commands():
    arguments = ["--config=configs/imagenet.py:ar_adals", "--workdir=/shared/w", "--config.seeds=(0,)"]
    environment, doctor, srun, requeue = dry("slurm.sh", *arguments, SLURM_CPUS_PER_TASK="12", SLURM_JOB_ID="77")
    assert environment == ["make_environment", "requirements.txt"]
    python = [".venv/bin/python", "-m", "arada.main"]
    on_tasks = ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=12"]
    assert doctor == [*on_tasks, *python[:-1], "arada.doctor", arguments[0], arguments[2]]
    assert srun == [*on_tasks, *python, *arguments]
    assert requeue == ["scontrol", "requeue", "77"]


PYTHON = """#!/usr/bin/env python3
import pathlib, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: sys.exit(0))
with open("calls", "a") as calls:
    print(*sys.argv[2:4], file=calls)
if sys.argv[2] in ("arada.main", "launch.demo"):
    time.sleep(5)
"""


@pytest.fixture
def project(tmp_path):
    """A folder with copies of the scripts, but that nothing is installed."""
    folder = tmp_path / "project"
    shutil.copytree(LAUNCH, folder / "launch")
    with open(folder / "launch" / "environment.sh", "a") as script:
        script.write("make_environment() { :; }\n")
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("script", "command"), [("demo.sh", "launch.demo"), ("gpu_cifar.sh", "arada.main")])
def test_no_method_follows_one_that_was_told_to_stop(project, script, command, number, code):
    program(project / ".venv" / "bin" / "python", PYTHON)
    running = start_as_a_terminal(project / "launch" / script)
    wait_for(project / "calls", command)
    os.killpg(running.pid, number)
    running.communicate(timeout=30)
    assert running.returncode == code
    assert (project / "calls").read_text().count(command) == 1


@pytest.mark.parametrize(
    ("log", "code", "requeued"),
    [("Done: train", 0, False), ("Report: x", 0, True), ("stopped", 0, True), ("no", 1, False)],
)
def test_a_job_queues_itself_until_it_is_done(tmp_path, project, log, code, requeued):
    program(tmp_path / "srun", f"#!/bin/sh\necho {log!r}; exit {code}\n")
    job = pretend_slurm(tmp_path, project)
    done = subprocess.run(["bash", job["script"]], env=job, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout == f"{log}\n"
    assert (tmp_path / "requeued").exists() == requeued


def pretend_slurm(folder, project):
    """Variables of job 77, its `script`, and a scontrol and a scancel that stand for Slurm's."""
    spool = folder / "slurm_script"  # Slurm copies the script out of the project
    shutil.copy(project / "launch" / "slurm.sh", spool)
    program(folder / "scontrol", f'#!/bin/sh\n[ "$*" = "requeue 77" ] && touch {folder}/requeued\n')
    program(folder / "scancel", f'#!/bin/sh\n[ "$*" = "--signal=TERM 77" ] && kill -USR2 $(cat {folder}/srun.pid)\n')
    variables = {
        "DOCTOR": "0",
        "SLURM_SUBMIT_DIR": str(project),
        "SLURM_JOB_ID": "77",
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    return variables | {"script": str(spool)}


WARNING = signal.SIGUSR1
# SIGUSR2 stands for the SIGTERM of its tasks; one of its own it answers by killing them.
SRUN = """#!/usr/bin/env python3
import os, pathlib, signal, sys, time
folder = pathlib.Path(__file__).parent
log, code = {end!r}
def stop(*_):
    if log:
        print(log, flush=True)
        os._exit(code)
def kill(*_):
    (folder / "killed").touch()
    os._exit(137)
signal.signal(signal.SIGUSR2, stop)
signal.signal(signal.SIGTERM, kill)
(folder / "srun.pid").write_text(f"{{os.getpid()}}\\n")
for _ in range(200):
    time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ("end", "grace", "requeued"),
    [(("stopped at step 40", 0), 60, True), (("Done: all", 0), 60, False), (("", None), 1, True)],
    ids=["stops", "is done just then", "does not stop"],
)
def test_a_job_queues_itself_before_its_time_is_up(tmp_path, project, end, grace, requeued):
    program(tmp_path / "srun", SRUN.format(end=end))
    job = pretend_slurm(tmp_path, project)
    assert signalled(job | {"GRACE": str(grace)}, WARNING, tmp_path) == 0
    assert (tmp_path / "requeued").exists() == requeued
    assert not (tmp_path / "killed").exists()


def test_a_job_that_is_cancelled_does_not_queue_itself(tmp_path, project):
    program(tmp_path / "srun", SRUN.format(end=("stopped", 0)))
    assert signalled(pretend_slurm(tmp_path, project), signal.SIGTERM, tmp_path) == -signal.SIGTERM
    assert not (tmp_path / "requeued").exists()


def signalled(job, number, folder):
    """The exit code of the job's script, which gets this signal while srun runs."""
    running = start_as_a_terminal(job["script"], env=job)
    wait_for(folder / "srun.pid", "\n")
    os.kill(running.pid, number)
    code = running.wait(15)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    return code


def sbatch_commands(path):
    """Each on one line, from comments too."""
    found = re.findall(r"^(?:#   )?(sbatch (?:.*\\\n)*.*)", path.read_text(), re.MULTILINE)
    return [re.sub(r"\\\n#?", "", command) for command in found]


def test_the_slurm_command_starts():
    """One process for each GPU: the config as the command has it fits as many of both as it asks for."""
    of_script, of_readme = (sbatch_commands(path) for path in (LAUNCH / "slurm.sh", LAUNCH.parent / "README.md"))
    assert len(of_script) == 1
    for command in (*of_script, *(shown for shown in of_readme if "data.streams" in shown)):
        options = dict(word[2:].split("=", 1) for word in shlex.split(command) if word.startswith("--"))
        path, _, preset = options["config"].partition(":")
        config = importlib.import_module(path.removesuffix(".py").replace("/", ".")).get_config(preset)
        fields = {name.removeprefix("config."): text for name, text in options.items() if name.startswith("config.")}
        config.update_from_flattened_dict({field: ast.literal_eval(text) for field, text in fields.items()})
        tasks = int(options["nodes"]) * int(options["ntasks-per-node"])
        assert tasks == int(options["nodes"]) * int(options["gpus-per-node"]) == 16
        checks.check_config(config, num_devices=tasks, num_processes=tasks)


def test_slurm_options_of_the_script():
    options = re.findall(r"^#SBATCH (\S+)", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE)
    assert {f"--signal=B:{WARNING.name.removeprefix('SIG')}@120", "--requeue", "--open-mode=append"} <= set(options)


def test_dockerfile():
    text = (LAUNCH / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = [line.split(maxsplit=1) for line in lines]
    assert [word for word, _ in words] == [
        *("FROM", "ARG", "ARG", "ENV", "SHELL", "WORKDIR", "COPY", "COPY", "RUN"),
        *("COPY", "COPY", "COPY", "ENTRYPOINT", "CMD"),
    ]
    # What is copied exists, and the ignore file lets it through.
    allowed = [line[1:] for line in (LAUNCH / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")]
    for word, rest in words:
        if word == "COPY":
            for source in rest.split()[:-1]:
                assert (LAUNCH.parent / source).exists()
                assert source.split("/")[0] in allowed


def lines_of(path):
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def test_the_lock_file_fits_the_requirements():
    pins = dict(line.split("==") for line in lines_of(LAUNCH / "requirements.lock"))
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in pins)
    for line in lines_of(LAUNCH.parent / "requirements.txt"):
        required = Requirement(line.split(" #")[0])
        if not required.marker or required.marker.evaluate({"sys_platform": "linux", "platform_machine": "x86_64"}):
            assert required.specifier.contains(pins[canonicalize_name(required.name)])


def test_the_environment_has_the_accelerators_jax(tmp_path):
    """make_environment with a python that notes what it is asked for."""
    (tmp_path / "launch").mkdir()
    shutil.copy(LAUNCH / "environment.sh", tmp_path / "launch")
    (tmp_path / "requirements.txt").write_text("jax\n")
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/bash\necho "$@" >> calls\nif [ "$2" = venv ]; then mkdir -p .venv/bin; cp "$0" .venv/bin/python; fi\n'
    )
    python.chmod(stat.S_IRWXU)

    def make(accelerator):
        command = "source launch/environment.sh; make_environment requirements.txt"
        variables = {"PATH": os.environ["PATH"], "PYTHON": str(python), "JAX_FOR": accelerator}
        subprocess.run(["bash", "-euc", command], env=variables, cwd=tmp_path, check=True, capture_output=True)
        calls = (tmp_path / "calls").read_text().splitlines()
        (tmp_path / "calls").unlink()
        return [call for call in calls if "pip install" in call and "--upgrade pip" not in call]

    assert make("") == ["-m pip install --quiet -r requirements.txt"]
    assert make("") == []
    assert make("cuda13") == ["-m pip install --quiet -r requirements.txt jax[cuda13]"]
    assert make("cuda13") == []
