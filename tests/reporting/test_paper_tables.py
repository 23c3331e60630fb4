import copy

import pytest

from arada.reporting import paper, paper_figures, paper_tables


def texts(table):
    return {label: list(map(str, row)) for label, row in table.rows}


def with_calibrators(evaluation):
    """Temperature scaling halves the ECE of vanilla, ETS divides it by four."""
    for run in evaluation["methods"]["vanilla"]["runs"].values():
        for name, divisor in (("temperature", 2), ("ets", 4)):
            scaled = copy.deepcopy({key: run[key] for key in ("test", "shift")})
            for of in [scaled["test"], *(of for sets in scaled["shift"].values() for of in sets)]:
                of["ece"] /= divisor
            run["calibrated"][name] = scaled | {"temperature": 1.5}
    return evaluation


def test_digits_have_no_column_of_the_paper(evaluation):
    for table in paper_tables.build(evaluation).values():
        assert not any("paper" in heading for heading in table.columns)


def test_table_1(evaluation):
    evaluation["experiment"]["dataset"] = "cifar10:3.0.2"
    table = paper_tables.build(evaluation)[1]
    assert table.columns == ["data set", "network", "accuracy x100 ↑", "network, paper", "accuracy x100, paper"]
    assert texts(table) == {"Vanilla": ["cifar10:3.0.2", "resnet_v2-11", "91.00 ± 1.41", "ResNet-29", "91.4"]}


def test_table_2_has_what_was_not_run(evaluation):
    evaluation["experiment"]["dataset"] = "cifar10"
    table = paper_tables.build(with_calibrators(evaluation))[2]
    assert table.columns == ["ECE x100 ↓", "ECE, paper (WRN-28-10)"]
    found = texts(table)
    assert found["Vanilla"] == ["5.00 ± 1.41", "2.49 ± 0.10"]
    assert found["Vanilla + temperature"] == ["2.50 ± 0.71 °", "0.80 ± 0.05"]
    # It is not the same as ranked on the fly, of which the paper's number is.
    assert found["AR-AdaLS"] == ["2.50 ± 0.71 °", "-"]
    assert found["AR-AdaLS, on the fly"] == ["not run", "0.64 ± 0.02"]
    assert found["Vanilla + ETS"] == ["1.25 ± 0.35 °", "0.97*"]
    assert found["mixup"] == ["not run", "0.78 ± 0.20"]


def test_table_3_of_cifar100_is_not_in_the_paper(evaluation):
    evaluation["experiment"]["dataset"] = "imagenet2012"
    table = paper_tables.build(evaluation)[3]
    assert table.columns == ["ECE under shift x100 ↓", "ECE under shift, paper (ResNet-101)"]
    assert texts(table)["AR-AdaLS of ensemble"] == ["not run", "4.0"]
    assert texts(table)["Vanilla"] == ["20.00 ± 5.66", "10.7 ± 0.5"]
    evaluation["experiment"]["dataset"] = "cifar100"
    assert paper_tables.build(evaluation)[3].columns == ["ECE under shift x100 ↓"]


def test_table_4_has_temperature_scaling_under_shift(evaluation):
    evaluation["experiment"]["dataset"] = "cifar100"
    table = paper_tables.build(with_calibrators(evaluation))[4]
    assert table.columns[4:] == ["ECE x100 ↓", "ECE, paper (WRN-28-10)", *table.columns[6:]]
    assert len(table.columns) == 8
    # Accuracy under shift: (80 + 80) / 2 and (70 + 60) / 2, mean 72.5 on both seeds.
    assert texts(table)["Vanilla + temperature"] == [
        *("91.00 ± 1.41", "79.2", "72.50 ± 0.00", "52.0"),
        *("2.50 ± 0.71 °", "4.3", "10.00 ± 2.83", "14.0"),
    ]


def test_table_5_by_severity(evaluation):
    evaluation["experiment"]["dataset"] = "cifar10"
    table = paper_tables.build(evaluation)[5]
    found = texts(table)
    # (0.01 + 0.02) / 2 at severity 1, (0.03 + 0.04) / 2 at severity 2, mean 0.025
    assert found["Vanilla"][:4] == ["0.200", "1.500", "3.500", "2.500"]
    assert found["Vanilla"][4:] == ["7.85", "9.69", "11.2", "13.1", "16.0", "11.6"]
    assert found["Label smoothing"][:4] == ["not run"] * 4
    assert len(table.columns) == len(found["Vanilla"]) == len(found["AdaLS"]) == 10


@pytest.mark.parametrize("table", [paper.TABLE_2, paper.TABLE_3, paper.TABLE_4, paper.TABLE_5])
def test_the_paper_names_methods_that_exist(table):
    known = {*paper_tables.TABLE_2, *paper_tables.SINGLE, *paper_tables.ENSEMBLES, *paper_tables.TABLE_4}
    assert {method for of in table.values() for method in of} <= known


def test_the_paper_s_means_are_those_of_its_severities():
    for of in paper.TABLE_5.values():
        for *by_severity, mean in of.values():
            assert sum(by_severity) / 5 == pytest.approx(mean, abs=0.06)


@pytest.mark.usefixtures("text_alone")
def test_every_figure_says_what_was_not_run(evaluation, workdir):
    sections = paper_figures.build(evaluation, workdir)
    assert list(sections) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [len(section.panels) for section in sections.values()] == [2, 4, 1, 1, 0, 2, 1, 2]
    missing = {number: " ".join(section.missing) for number, section in sections.items()}
    assert "Label smoothing by robustness level" in missing[2]
    assert "Label smoothing on out-of-distribution images" in missing[4]
    assert "--grid=figure_5" in missing[5]
    assert "Ensemble of vanilla" in missing[6]
    assert "test predictions of Ensemble of AR-AdaLS" in missing[8]
