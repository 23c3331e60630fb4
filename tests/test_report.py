"""The command that reports, as a user meets it."""

import json
import os
import subprocess
import sys

import drawn
import pytest

from arada import report


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    found = drawn.write(tmp_path_factory.mktemp("written"), {"vanilla": 1.0}, seeds=(0,))
    found["methods"]["vanilla"]["runs"]["0"]["test"]["accuracy"] = 0.9
    return found


@pytest.fixture
def experiment(tmp_path, evaluation):
    def experiment(name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps(evaluation))
        return str(tmp_path / name)

    return experiment


def test_one_folder_is_the_report_stage_and_a_copy(experiment, tmp_path, capsys):
    report.main([experiment("a")])
    assert capsys.readouterr().out == f"Report: {tmp_path}/a/report/index.html\n"
    page = (tmp_path / "a" / "report" / "index.html").read_text()
    report.main([str(tmp_path / "a"), f"--output={tmp_path}/copy.html"])
    assert (tmp_path / "copy.html").read_text() == page
    assert ">90.00</td>" in page


def test_several_folders_need_no_more_than_a_place(experiment, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    report.main([experiment("a"), experiment("b")])
    assert capsys.readouterr().out == "Report: report.html\n"
    assert "2 experiments" in (tmp_path / "report.html").read_text()


def test_mistakes_end_in_one_line(experiment, tmp_path):
    a = experiment("a")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([str(tmp_path / "empty")], "empty/evaluation.json does not exist: run --stage=evaluate first"),
        ([a, str(tmp_path / "nowhere")], "nowhere/evaluation.json does not exist: run --stage=evaluate first"),
        ([a, a + "/"], "names one folder twice"),
        ([a, experiment("b"), f"--output={a}"], "is a folder; name a file"),
        ([a, f"--output={a}/evaluation.json/page.html"], "Not a directory; fix that, or choose another --output"),
    ):
        with pytest.raises(SystemExit) as exit_:
            report.main(arguments)
        assert str(exit_.value).startswith("error: ")
        assert message in str(exit_.value)
        assert "\n" not in str(exit_.value)


def test_a_command_without_a_folder_says_how_it_is_used():
    command = [sys.executable, "-m", "arada.report"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("error: the following arguments are required: DIR")


def test_a_page_is_the_same_in_any_locale(experiment, tmp_path):
    folder = experiment("a")
    report.main([folder])
    page = (tmp_path / "a" / "report" / "index.html").read_bytes()
    assert "▲" in page.decode()
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-m", "arada.report", folder], env=environment, check=True, capture_output=True)
    assert (tmp_path / "a" / "report" / "index.html").read_bytes() == page
