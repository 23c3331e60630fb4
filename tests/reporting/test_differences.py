"""Tables of differences: which interval stands where, and which pairs."""

import pytest

from arada.evaluation import uncertainty
from arada.reporting import differences


def texts(table):
    return {label: list(map(str, row)) for label, row in table.rows}


@pytest.fixture
def with_intervals(evaluation):
    """Differences of 1 % over seeds and 2 % over images, after calibration of 3 % and 4 %."""
    for name, method in evaluation["methods"].items():
        for variant, first in (("plain", 0.01), ("temperature", 0.03)):
            of = method["uncertainty"][variant]
            parts = {"test": ("accuracy", "ece"), "shift": ("ece", "nll")}
            for kind, size in (("seeds", first), ("images", first + 0.01)):
                numbers = [size, size - 0.005, size + 0.005, *((2,) if kind == "seeds" else ())]
                ends = numbers if kind == "seeds" else numbers[1:]
                of[kind]["differences"] = {part: dict.fromkeys(keys, numbers) for part, keys in parts.items()}
                of[kind]["intervals"] = {part: dict.fromkeys(keys, ends) for part, keys in parts.items()}
            if name == "vanilla" and variant == "plain":
                of["seeds"]["differences"], of["images"]["differences"] = {}, {}
    return evaluation


def test_seeds_come_first_and_headings_say_which(with_intervals):
    plain, calibrated, intervals = differences.build(with_intervals)
    assert plain.columns[:4] == [
        *("accuracy x100, over seeds", "accuracy x100, over images"),
        *("ECE x100, over seeds", "ECE x100, over images"),
    ]
    assert calibrated.columns == intervals.columns == plain.columns
    of_plain = ["+1.00 [+0.50, +1.50]", "+2.00 [+1.50, +2.50]"]
    of_calibrated = ["+3.00 [+2.50, +3.50]", "+4.00 [+3.50, +4.50]"]
    # NLL is not in percent.
    nll = {"plain": ["+0.01 [+0.01, +0.01]", "+0.02 [+0.01, +0.03]"]}
    found = texts(plain)
    assert list(found) == ["Vanilla + temperature", "AR-AdaLS"]
    assert found["AR-AdaLS"][:6] == of_plain * 3
    assert found["AR-AdaLS"][7] == nll["plain"][1]
    # Vanilla after temperature scaling differs from itself without.
    assert found["Vanilla + temperature"][:6] == of_calibrated * 3
    assert {label: row[:6] for label, row in texts(calibrated).items()} == {"AR-AdaLS": of_calibrated * 3}
    assert calibrated.title == "Differences from Vanilla after temperature scaling"
    # Means over seeds, with both intervals: vanilla's accuracy is 91.
    assert texts(intervals)["Vanilla"][1] == "91.00 [1.50, 2.50]"
    assert "training runs, on these test images" in plain.definition[0]


def test_one_seed_is_said_where_the_interval_would_be(with_intervals):
    for method in with_intervals["methods"].values():
        method["runs"] = {"0": method["runs"]["0"]}
        for of in method["uncertainty"].values():
            of["seeds"] = {"intervals": {}, "differences": {}}
    plain, _, intervals = differences.build(with_intervals)
    assert texts(plain)["AR-AdaLS"][:2] == ["no interval: one seed", "+2.00 [+1.50, +2.50]"]
    assert texts(intervals)["Vanilla"][0] == "-"
    assert "A method with one seed has no interval over seeds" in plain.definition[0]


def test_every_pair_is_the_difference_of_the_row(evaluation):
    assert [table.name for table in differences.build(evaluation)][2] == "intervals"  # two methods have one pair
    evaluation["methods"]["mixup"] = evaluation["methods"]["ar_adals"]
    pairs = next(table for table in differences.build(evaluation) if table.name == "pairs")
    assert pairs.columns == ["Vanilla", "AR-AdaLS", "mixup"]
    found = texts(pairs)
    methods = evaluation["methods"]
    expected = uncertainty.difference(methods["ar_adals"], methods["vanilla"], "ece", "shift")
    # 16 and 24 under shift, half of it: -8 and -12.
    assert expected.estimate == pytest.approx(-0.1)
    assert found["AR-AdaLS"][0] == f"-10.00 [{100 * expected.low:+.2f}, {100 * expected.high:+.2f}]"
    assert found["Vanilla"] == [
        "-",
        f"+10.00 [{-100 * expected.high:+.2f}, {-100 * expected.low:+.2f}]",
        found["Vanilla"][1],
    ]
    assert found["mixup"][1] == "+0.00 [+0.00, +0.00]"
