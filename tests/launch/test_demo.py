"""The demo's program on the testing size: one process, one report."""

import os

import pytest

from arada import reporting
from arada.runs import trained
from configs import digits
from launch import demo


@pytest.mark.usefixtures("one_convolution")
def test_a_second_call_reads_no_weights_and_writes_nothing(tmp_path, monkeypatch, capsys):
    full_size, written = digits.get_config, []
    write_report = reporting.write_report
    monkeypatch.setattr(digits, "get_config", lambda presets: full_size(f"{presets},testing"))
    monkeypatch.setattr(reporting, "write_report", lambda path: written.append(path) or write_report(path))
    monkeypatch.setattr(demo, "METHODS", ("vanilla", "adals"))

    demo.demo(str(tmp_path))
    page = tmp_path / "report/index.html"
    os.utime(page, (later := page.stat().st_mtime + 2, later))  # this report is quicker than the clock's second
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    first = capsys.readouterr().out
    monkeypatch.setattr(trained, "final_variables", None)
    demo.demo(str(tmp_path))

    assert len(written) == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == made
    again = capsys.readouterr().out
    assert again == first
    assert [line.split()[0] for line in first.splitlines() if line.startswith(("Vanilla", "AdaLS"))] == [
        "Vanilla",
        "AdaLS",
    ]
