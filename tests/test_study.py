"""A study from its command to its page: killed, gone on with, and gone on with by another machine."""

import os
import pathlib
import signal
import subprocess
import sys

import commands
import ml_collections
import one_convolution
import pytest

from arada.errors import UserError
from arada.runs import trainer
from arada.runtime import files
from arada.studies import design, runner

pytestmark = pytest.mark.usefixtures("one_convolution")

# Two arms and two seeds of the testing preset, one epoch long.
STUDY = """
import one_convolution
from configs.studies import design


def get_config():
    shortest = {
        "run.num_devices": 1,
        "training.epochs": 1,
        "evaluation.severities": (1, 5),
        "evaluation.out_of_distribution": ("photographs",),
    }
    arms = {name: one_convolution.get_config(name + ",testing") for name in ("vanilla", "ar_adals")}
    pair = "robust_minus_vanilla"
    return design.study(
        name="small",
        question="Does it help?",
        stated="2026-11-26",
        seeds=(0, 1),
        arms=design.arms(arms, shortest),
        shifts={"noise": {"shifts": ("noise",)}, "turned": {"shifts": ("rotation",)}},
        outcomes=design.outcomes("noise"),
        comparisons={pair: {"arm": "ar_adals", "reference": "vanilla"}},
        claims={
            "helps": {
                "says": "It helps.",
                "upheld_by": ((pair, "shift_ece_tempered"), (pair, "shift_ece")),
                "refuted_by": (pair, "shift_ece"),
                "smallest_effect": {"arm": "vanilla", "outcome": "shift_ece", "share": 0.1},
            }
        },
        budget_hours=1.0,
    )
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "small.py"
    path.write_text(STUDY)
    return path


def command(file, workdir, *flags):
    return [sys.executable, "-m", "arada.study", f"--study={file}", f"--workdir={workdir}", *flags]


def environment():
    return os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(pathlib.Path(one_convolution.CONFIG).parent)}


@pytest.fixture(scope="module")
def killed(file, tmp_path_factory):
    """The workdir of a study that was killed when it had trained its second run, and the log up to there."""
    workdir = tmp_path_factory.mktemp("killed") / "workdir"
    process = subprocess.Popen(command(file, workdir), env=environment(), stderr=subprocess.PIPE, text=True)
    log = []
    for line in process.stderr:
        log.append(line)
        if "ar_adals/seed_0: compiled" in line:
            process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert process.returncode == -signal.SIGKILL, "".join(log)
    return workdir


def load(file):
    namespace = {}
    exec(file.read_text(), namespace)
    return namespace["get_config"]()


def trained_by(run, monkeypatch):
    """The runs that are trained while `run` runs."""
    names, train = [], trainer.Trainer.train

    def noted(self, seed):
        names.append((self._config.name, seed))
        train(self, seed)

    monkeypatch.setattr(trainer.Trainer, "train", noted)
    run()
    return names


@pytest.fixture(scope="module")
def done(file, killed):
    """The same workdir after the command was given again."""
    result = subprocess.run(command(file, killed), env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return killed, result


def test_a_killed_study_goes_on_and_ends_with_its_page(done):
    workdir, result = done
    assert "vanilla/seed_0: compiling" not in result.stderr
    assert "study small: 1 runs done, 3 left, about" in result.stderr
    assert "study small: 4 runs done, 0 left" in result.stderr
    page = workdir / "study" / "index.md"
    assert result.stdout == f"Page: {page}\n"
    text = page.read_text()
    assert text.startswith("# Does it help?\n")
    assert any(f"**{kind}**: It helps." in text for kind in ("Upheld", "Refuted", "Open"))
    assert "| robust_minus_vanilla | ar_adals - vanilla | 2 |" in text
    assert "None: all planned runs are done." in text
    # No outcome is missing.
    assert "not run" not in text.split("## Finished runs")[0]


def test_what_runs_leave_is_that_of_evaluation_and_small(done, file):
    workdir, _ = done
    results = runner.Runner(load(file), workdir).results
    run = results.read(design.Task("ar_adals", "ar_adals", 1))
    assert set(run["metrics"]["shift"]) == {"noise", "turned"}
    assert [set(run["metrics"]["shift"][part]) for part in ("noise", "turned")] == [{"noise"}, {"rotation"}]
    assert set(run["metrics"]["calibrated"]["temperature"]["shift"]) == {"noise", "turned"}
    assert 0 < run["hours"] < 0.1
    assert run["metrics"]["ood"]["photographs"]["auroc_confidence"] > 0
    sizes = {str(path): path.stat().st_size for path in (workdir / "study").rglob("*.*")}
    assert max(sizes.values()) < 100_000, sizes


def test_another_machine_goes_on_from_the_results_alone(done, file, monkeypatch, tmp_path):
    workdir, _ = done
    kept = tmp_path / "results"
    subprocess.run(["cp", "-r", workdir / "study", kept], check=True)
    (kept / "runs" / "ar_adals" / "seed_1.json").unlink()
    config = load(file)
    config.results = str(kept)
    there = runner.Runner(config, tmp_path / "workdir")
    # The rankings are enough: vanilla is not trained again.
    assert trained_by(lambda: there.run(design.tasks(config)), monkeypatch) == [("ar_adals", 1)]
    again, before = (files.read_json(of / "runs" / "ar_adals" / "seed_1.json") for of in (kept, workdir / "study"))
    for metric in ("ece", "accuracy", "nll"):
        assert again["metrics"]["test"][metric] == pytest.approx(before["metrics"]["test"][metric], abs=1e-5)


def test_a_run_that_starts_from_another_trains_it_again_where_its_weights_are_missing(
    done, file, monkeypatch, tmp_path
):
    workdir, _ = done
    kept = tmp_path / "results"
    subprocess.run(["cp", "-r", workdir / "study", kept], check=True)
    config = load(file)
    tuned = ml_collections.ConfigDict(config.arms.vanilla.to_dict(), convert_dict=True)
    tuned.name, tuned.training.init_from = "tuned", "vanilla/seed_{seed}"
    config.arms.tuned = tuned
    config.update(results=str(kept), seeds=(0,))
    there = runner.Runner(config, tmp_path / "workdir")
    assert trained_by(lambda: there.run(design.tasks(config)), monkeypatch) == [("vanilla", 0), ("tuned", 0)]
    assert there.results.read(design.Task("tuned", "tuned", 0))


def test_runs_of_another_design_are_not_taken_for_these(done, file):
    workdir, _ = done
    config = load(file)
    config.arms.ar_adals.soft_labels.alpha = ((0, 0.7),)
    with pytest.raises(UserError, match=r"seed_0.json has another config: soft_labels.alpha was"):
        runner.Runner(config, workdir).run(design.tasks(config))


def test_other_images_are_refused(done, file, tmp_path):
    workdir, _ = done
    results = runner.Runner(load(file), workdir).results
    with pytest.raises(UserError, match=r"used other images or labels \(test was"):
        results.check_data({"train": "0", "validation": "0", "test": "0"})


def test_only_the_budget_stops(file, killed, done, caplog, tmp_path):
    workdir, _ = done
    kept = tmp_path / "results"
    subprocess.run(["cp", "-r", workdir / "study", kept], check=True)
    (kept / "runs" / "ar_adals" / "seed_1.json").unlink()
    config = load(file)
    spent = sum(files.read_json(path)["hours"] for path in kept.glob("runs/**/*.json"))
    config.update(results=str(kept), budget_hours=spent * 1.01)
    with caplog.at_level("INFO", logger="arada"):
        runner.Runner(config, tmp_path / "workdir").run(design.tasks(config))
    assert "ar_adals/seed_1 is not run: it would end after" in caplog.text
    assert not (kept / "runs" / "ar_adals" / "seed_1.json").exists()


def test_jobs_of_a_cluster_come_in_phases(file, tmp_path, monkeypatch):
    config = load(file)
    there, phases = runner.Runner(config, tmp_path), []

    def submit(function, jobs):
        phases.append([task[1:] for _, task in jobs])
        for _, task in jobs:
            run = {"metrics": {"validation": {}}, "hours": 0.01, "commit": "", "hardware": "", "data": {}}
            identity = runner.run_identity(there.config_of(task), task.seed, 1)
            there.results.write(task, run | {"identity": identity})

    there.run(design.tasks(config), submit)
    # What is ranked comes before what is trained by its ranks.
    assert phases == [[("vanilla", 0), ("vanilla", 1)], [("ar_adals", 0), ("ar_adals", 1)]]


def test_a_mistake_ends_in_one_line(file, tmp_path):
    mistakes = {
        "--seeds=5": "error: --seeds names '5', but the study has 0, 1; --study.seeds=... changes them\n",
        "--arms=adals": "error: --arms names the unknown 'adals'; choose one of vanilla, ar_adals\n",
        "--study.budget=3": "error: the study has no such field: ",
    }
    module = command(file, tmp_path)[2:]
    for result, message in zip(
        commands.run(*([*module, flag] for flag in mistakes), **environment()), mistakes.values(), strict=True
    ):
        assert result.returncode == 1
        assert result.stderr.startswith(message)
        assert result.stderr.count("\n") == 1


def test_a_part_of_shifts_that_cannot_be_is_seen_before_any_run(file, tmp_path):
    config = load(file)
    config.shifts.turned.shifts = ("rotated",)
    with pytest.raises(UserError, match=r"evaluation.shifts must be one of .*, not 'rotated'"):
        runner.Runner(config, tmp_path).run(design.tasks(config))


def test_images_that_all_jobs_read_are_made_by_one_before_them(file, tmp_path, monkeypatch):
    config = load(file)
    config.shifts.turned.shift_source = "generated"
    there, submitted = runner.Runner(config, tmp_path), []
    monkeypatch.setattr(there, "_check_all", lambda: None)
    monkeypatch.setattr(there, "_runnable", lambda tasks: [])
    there.run([], lambda function, jobs: submitted.append((function, len(jobs))))
    assert submitted == [(runner.make_shifted, 1)]
