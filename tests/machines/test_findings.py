from arada.machines.findings import Finding, clock, exit_code


def test_a_line_says_what_is_how_and_what_to_do():
    finding = Finding("clu", "note", "not installed: no training", "pip install 'arada[experiments]'")
    assert finding.line() == "note  clu                 not installed: no training; pip install 'arada[experiments]'"
    assert Finding("host", "ok", "2 cores").line() == "ok    host                2 cores"


def test_only_what_is_wrong_fails():
    assert exit_code([Finding("a", "ok", ""), Finding("b", "note", "")]) == 0
    assert exit_code([Finding("a", "ok", ""), Finding("b", "wrong", "")]) == 1


def test_durations():
    seconds = [0.0012, 1, 119, 120, 3600, 7200, 200_000]
    assert [clock(of) for of in seconds] == ["1.2 ms", "1 s", "119 s", "2 min", "60 min", "2 hours", "2.31 days"]
