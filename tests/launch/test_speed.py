"""The benchmark's arithmetic, and one comparison from end to end on a network that takes milliseconds."""

import argparse
import functools
import importlib
import importlib.util
import json
import subprocess
import sys
import time

import pytest

from arada.models import cpu
from launch.benchmarks import contestants, side_by_side, speed, torch_contestants
from launch.benchmarks.side_by_side import Comparison, Entry, Skipped

WAYS = cpu._ON_CPU["stock"]


def contestant(name, repeats, variant=""):
    about = {"witness": None, "first_seconds": 12.345, "peak_bytes": 2**30}
    return {"name": name, "variant": variant} | about | side_by_side.summary(repeats)


RATES = {
    "title": "Training",
    "unit": "images/s",
    "seconds": False,
    "goals": {"PyTorch": 1.5},
    "cpus_of_others": 0.05,
    "contestants": [
        contestant("arada", [100.0, 90.0, 120.0]),
        contestant("PyTorch", [40.0, 50.0, 60.0], "channels-last"),
        contestant("PyTorch", [80.0, 80.0, 20.0], "contiguous"),
    ],
}


STORED = {
    "commit": "abc",
    "date": "2026-01-02T03:04:05",
    "cpu": "Some CPU",
    "threads": 2,
    "versions": {"jax": "1.0", "torch": "2.0"} | dict.fromkeys(("foolbox", "torchattacks", "adv-lib"), "absent"),
    "results": [RATES],
}


def test_summary_is_median_and_extremes():
    assert side_by_side.summary([3.0, 1.0, 2.0, 10.0]) == {
        "median": 2.5,
        "min": 1.0,
        "max": 10.0,
        "repeats": [3.0, 1.0, 2.0, 10.0],
    }


def test_the_better_variant_stands_for_a_peer():
    standings = side_by_side.standings(RATES)
    assert [(one["name"], one["variant"], one["median"]) for one in standings] == [
        ("arada", "", 100.0),
        ("PyTorch", "contiguous", 80.0),
    ]
    # Turn by turn 100 / 80, 90 / 80 and 120 / 20.
    assert [one["speedup"]["repeats"] for one in standings] == [[1.0, 1.0, 1.0], [1.25, 1.125, 6.0]]
    assert [one["speedup"]["median"] for one in standings] == [1.0, 1.25]


def test_of_seconds_the_fewer_are_better():
    standings = side_by_side.standings(RATES | {"unit": "s", "seconds": True})
    # Medians of 40 / 100, 50 / 90 and 60 / 120.
    assert [(one["variant"], one["speedup"]["median"]) for one in standings] == [("", 1.0), ("channels-last", 0.5)]


def test_markdown():
    title, blank, heading, _, *rows = side_by_side.markdown([RATES]).splitlines()
    assert (title, blank) == ("**Training**", "")
    assert [" ".join(row.split()) for row in (heading, *rows) if row] == [
        "| | images/s | arada is x times as fast | goal | first call, s | peak, GiB |",
        "| arada | 100 (90 - 120) | | | 12.3 | 1.00 |",
        "| PyTorch (contiguous) | 80 (20 - 80) | 1.25 (1.12 - 6.00) | 1.50 | 12.3 | 1.00 |",
    ]


def test_a_table_is_made_of_stored_results(tmp_path, capsys):
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(STORED))
    assert speed.main(["--markdown", f"--output={path}"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(side_by_side.markdown([RATES]))
    assert shown.strip().endswith("Commit abc, 2026-01-02, Some CPU, 2 CPUs; jax 1.0, torch 2.0.")


def test_a_page_takes_the_tables_again_and_again(tmp_path, capsys):
    path, page = tmp_path / "benchmark.json", tmp_path / "page.md"
    page.write_text("Before\n<!-- tables -->\nold\n<!-- end of tables -->\nAfter\n")
    for commit in ("abc", "def"):
        path.write_text(json.dumps(STORED | {"commit": commit}))
        assert speed.main([f"--page={page}", f"--output={path}"]) == 0
        tables = speed.published(str(path))
        assert page.read_text() == f"Before\n<!-- tables -->\n\n{tables}\n<!-- end of tables -->\nAfter\n"
    page.write_text("Nothing")
    assert speed.main([f"--page={page}", f"--output={path}"]) == 1
    assert "the page has no lines <!-- tables -->" in capsys.readouterr().err


def test_the_pages_tables_are_those_of_the_stored_results(request):
    docs = request.config.rootpath / "docs"
    page, stored = (docs / "benchmarks.md").read_text("utf-8"), docs / "benchmark.json"
    assert speed.with_tables(page, speed.published(str(stored)) if stored.exists() else "Not measured yet.") == page


def test_no_table_is_made_of_what_a_busy_machine_gave(tmp_path, capsys):
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps({"results": [RATES, RATES | {"title": "Gradients", "cpus_of_others": 0.7}]}))
    assert speed.main(["--markdown", f"--output={path}"]) == 1
    shown = capsys.readouterr()
    assert "other processes used 0.70 CPUs while 'Gradients' was measured, more than 0.1. Measure" in shown.err
    assert not shown.out


def test_rows_of_another_commit_do_not_stay(tmp_path):
    path = tmp_path / "benchmark.json"
    assert speed.earlier_results(str(path), "abc") == []
    path.write_text(json.dumps({"commit": "abc", "results": [RATES]}))
    assert speed.earlier_results(str(path), "abc") == [RATES]
    assert speed.earlier_results(str(path), "abcd") == []


def sleeper():
    def turn():
        time.sleep(0.3)
        return 1, 0.3

    return contestants.Contestant(turn)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what other processes use")
def test_others_are_noticed():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            worker = side_by_side.Worker(Entry("sleeper", sleeper, {}), cpus=1, seconds=0.3)
            assert worker.measure()[2] > 0.3
            worker.close()
        finally:
            other.kill()


def test_contestants_must_compute_the_same():
    side_by_side.check_witnesses({"arada": 2.0, "PyTorch": 2.01, "untold": None})
    side_by_side.check_witnesses({})
    with pytest.raises(RuntimeError, match="do not compute the same"):
        side_by_side.check_witnesses({"arada": 2.0, "PyTorch": 2.1})


def test_extrapolation_to_the_papers_settings():
    # 64 images by 50 of 1,500 steps: 512 images by all of them take 8 * 30 times as long.
    assert 512 / speed.papers_images(64, 50) == pytest.approx(8 * 30)


def of_study(attack, spearman, gradients, **settings):
    """A row as `arada.agreement` writes it."""
    agreement = {"train": {"spearman": spearman}, "validation": {"spearman": 1.0}}
    row = {"name": attack, "by": "attack", "attack": attack, "gradients": gradients, "images_per_second": 1.0}
    return row | {"settings": settings} | agreement


STUDY = [
    of_study("", 1.0, 0) | {"by": "random", "images_per_second": None},
    of_study("first_order", 0.9, 1, candidates=1, refine_steps=0),
    of_study("first_order", 1.0, 5, candidates=1, refine_steps=20),
    of_study("fmn", 0.95, 10, steps=10),
    of_study("fmn", 0.995, 20, steps=20),
    of_study("fmn", 0.999, 40, steps=40),
    of_study("cw", 1.0, 1500, binary_search_steps=3, max_iterations=500),
]


def test_the_cheapest_attack_that_ranks_as_carlini_wagner_does(tmp_path):
    path = tmp_path / "agreement.json"
    path.write_text(json.dumps({"candidates": STUDY}))
    study = speed.read_study(path)
    assert [of["settings"] for of in study][:2] == [{"candidates": 1}, {"steps": 10}]
    chosen = speed.cheapest(study)
    assert (chosen["attack"], chosen["settings"], chosen["spearman"]) == ("fmn", {"steps": 20}, 0.995)
    with pytest.raises(Skipped, match=r"Spearman correlation of 0\.99"):
        speed.cheapest(study[:2])


def test_ranking_without_a_run_says_what_it_needs():
    with pytest.raises(Skipped, match=r"--run=DIR .* --study=FILE"):
        speed.ranking(argparse.Namespace(run="", study=""))


@pytest.mark.parametrize("taken", ["stock", "onednn"])
def test_every_row_names_its_contestants_and_their_kernels(monkeypatch, taken):
    monkeypatch.setattr(speed, "auto_kernels", lambda: taken)
    arguments = argparse.Namespace(run="", study="")
    for row in speed.ROWS.keys() - {"ranking"}:
        for comparison in speed.ROWS[row](arguments):
            labels = [entry.label for entry in comparison.entries]
            assert len(labels) == len(set(labels)) >= 2
            first = comparison.entries[0]
            assert first.label == f"{first.name}, {taken}"
            assert first.settings["cpu_kernels"] == taken
            # The same without oneDNN stands beside it.
            assert ("arada, stock kernels" in labels) == (taken == "onednn" and first.name == "arada")


@pytest.mark.parametrize("build", [contestants.arada_gradients, contestants.arada_training])
def test_a_contestant_computes_with_its_kernels(monkeypatch, build):
    used = set()

    def noting(way):
        def noted(*arrays, **options):
            used.add(way)
            return way(*arrays, **options)

        return noted

    monkeypatch.setitem(cpu._ON_CPU, "onednn", tuple(map(noting, WAYS)))
    network = contestants.Network("wide_resnet", depth=10, width=1, image_shape=(8, 8, 3))
    settings = {"optimizer": speed.SGD} if build is contestants.arada_training else {}
    by_kernels = [build(network, 2, cpu_kernels=name, **settings).witness for name in cpu.KERNELS]
    assert used == set(WAYS)
    assert by_kernels[0] == by_kernels[1]


def test_an_unknown_row_is_refused(capsys):
    with pytest.raises(SystemExit):
        speed.main(["--rows=trian"])
    assert "'trian' is unknown; choose from train_resnet29" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["-m", "launch.benchmarks.speed"], ["launch/benchmarks/speed.py"]])
def test_runs_as_a_module_and_as_a_file(command, tmp_path, request):
    done = subprocess.run(
        [sys.executable, *command, "--rows=ranking", f"--output={tmp_path}/benchmark.json"],
        capture_output=True,
        text=True,
        cwd=request.config.rootpath,
    )
    assert done.returncode == 1
    assert "row ranking skipped: needs --run=DIR" in done.stderr
    assert not done.stdout


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="a TPU's library is installed")
def test_a_device_that_is_absent_ends_in_one_line(tmp_path, request):
    command = [sys.executable, "-m", "launch.benchmarks.speed", "--device=tpu", f"--output={tmp_path}/benchmark.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=request.config.rootpath)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: JAX cannot open its devices")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_device_stands_below_the_tables(tmp_path):
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps(STORED | {"device": "Some GPU"}))
    assert "Commit abc, 2026-01-02, Some GPU, Some CPU, 2 CPUs; jax 1.0, torch 2.0." in speed.published(str(path))


ABSENT = functools.partial(importlib.import_module, "no_such_library")


def test_a_peer_that_is_absent_skips_the_row(capsys):
    comparison = Comparison("Tiny", "images/s", (Entry("arada", int, {}), Entry("peer", ABSENT, {})))
    with pytest.raises(Skipped, match=r"no_such_library.*pip install -r tests/requirements-peers\.txt"):
        side_by_side.measure(comparison, repeats=1, cpus=1, seconds=0)
    assert "preparing arada" not in capsys.readouterr().err


def test_a_contestant_that_breaks_fails_the_row(tmp_path, monkeypatch, capsys):
    comparison = Comparison("Tiny", "images/s", (Entry("arada", int, {"of": "no such thing"}),))
    monkeypatch.setattr(speed, "ROWS", {"tiny": lambda arguments: [comparison]})
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    assert speed.main(["--rows=tiny", f"--output={tmp_path}/benchmark.json"]) == 1
    assert "row tiny failed: Traceback" in capsys.readouterr().err


@pytest.mark.peer
def test_a_comparison_from_end_to_end(peer, tmp_path, monkeypatch, capsys):
    peer("torch")
    network = contestants.Network("wide_resnet", depth=10, width=1, image_shape=(8, 8, 3))
    settings = {"network": network, "batch_size": 4}
    entries = (
        Entry("arada", contestants.arada_gradients, settings),
        Entry("PyTorch", torch_contestants.gradients, settings | {"layout": "channels-last"}, "channels-last"),
        Entry("other", ABSENT, {}, optional=True),
    )
    comparison = Comparison("Tiny gradients", "gradients/s", entries)
    monkeypatch.setattr(speed, "ROWS", {"tiny": lambda arguments: [comparison]})
    output = tmp_path / "folder" / "benchmark.json"
    options = ["--rows=tiny", "--repeats=2", "--seconds=0.01", "--threads=1", f"--output={output}"]
    monkeypatch.setattr(speed, "QUIET", float("inf"))
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")  # who has chosen already is left alone
    assert speed.main(options) == 0
    shown = capsys.readouterr()
    assert "without other: No module named 'no_such_library'" in shown.err
    assert "Tiny gradients" in shown.out
    written = json.loads(output.read_text())
    assert written["threads"] == 1
    assert written["allocator"] == "glibc.malloc.arena_max=1"
    assert written["versions"]["torch"]
    (result,) = written["results"]
    # They agree far better than check_witnesses asks.
    witnesses = [one["witness"] for one in result["contestants"]]
    assert witnesses[0] == pytest.approx(witnesses[1], rel=1e-4)
    assert all(len(one["repeats"]) == 2 and one["min"] > 0 for one in result["contestants"])
