import copy

import pytest

from arada.reporting import tables


def test_results_are_means_and_deviations_over_seeds(evaluation):
    table = tables.results(evaluation)
    assert [label for label, _ in table.rows] == ["Vanilla", "AR-AdaLS"]
    accuracy, ece, floor, shifted, _, nll, brier, training = table.rows[0][1]
    # Two values a and b have mean (a + b) / 2 and deviation |a - b| / sqrt(2).
    assert str(accuracy) == "91.00 ± 1.41"  # 90 and 92
    assert str(ece) == "5.00 ± 1.41"  # 4 and 6
    # seed 0: severity 1 (8 + 16) / 2 = 12, severity 2 (16 + 24) / 2 = 20, mean 16; seed 1 half as much again, 24
    assert str(shifted) == "20.00 ± 5.66"
    assert str(nll) == "0.500 ± 0.141"
    assert str(brier) == "0.180 ± 0.028"  # 0.20 and 0.16
    assert (str(floor), str(training)) == ("2.00 ± 0.00", "99.00 ± 0.00")


def test_an_ece_that_chance_explains_is_marked(evaluation):
    # 95 % of calibrated networks are below 3: vanilla has 5, AR-AdaLS 2.5 on average.
    ece = [str(row[1]) for _, row in tables.results(evaluation).rows]
    assert ece == ["5.00 ± 1.41", "2.50 ± 0.71 °"]
    assert "° not distinguishable from a perfectly calibrated network." in tables.results(evaluation).caption
    for run in evaluation["methods"]["ar_adals"]["runs"].values():
        run["test"]["ece_p95"] = 0.0249
    assert str(tables.results(evaluation).rows[1][1][1]) == "2.50 ± 0.71"
    severities = [str(cell) for cell in tables.ece_by_severity(evaluation).rows[1][1]]
    # AR-AdaLS: (6 + 9) / 2 at severity 1, (10 + 15) / 2 at severity 2.
    assert severities == ["2.50 ± 0.71", "7.50 ± 2.12", "12.50 ± 3.54", "10.00 ± 2.83"]


def test_calibrators_have_rows_below_their_method(evaluation):
    runs = evaluation["methods"]["vanilla"]["runs"]
    for seed, run in runs.items():
        scaled = copy.deepcopy({key: run[key] for key in ("test", "shift")})
        scaled["test"]["ece"] /= 4
        run["calibrated"]["temperature"] = scaled | {"temperature": 1.5 + int(seed)}
    runs["1"]["calibrated"]["temperature"]["shift"] = {}
    rows = dict(tables.calibrated(evaluation).rows)
    of_each = [
        f"{name}{calibrator}" for name in ("Vanilla", "AR-AdaLS") for calibrator in ("", " + temperature", " + ETS")
    ]
    assert list(rows) == of_each
    ece, _, shifted, *_, temperature = map(str, rows["Vanilla + temperature"])
    assert (ece, shifted) == ("1.25 ± 0.35 °", "16.00 (1 of 2 seeds)")
    assert temperature == "2.00 ± 0.71"
    assert str(rows["Vanilla"][-1]) == "1.00 ± 0.00"
    # Other tables are of the methods alone.
    assert [label for label, _ in tables.results(evaluation).rows] == ["Vanilla", "AR-AdaLS"]


def test_out_of_distribution(evaluation):
    for method in evaluation["methods"].values():
        for run in method["runs"].values():
            run["ood"]["photographs"] |= {"fpr95_confidence": 0.2, "fpr95_entropy": 0.1}
    table = tables.out_of_distribution(evaluation)
    assert table.columns == [
        *("AUROC photographs (confidence) ↑", "FPR95 x100 photographs (confidence) ↓"),
        *("AUROC photographs (entropy) ↑", "FPR95 x100 photographs (entropy) ↓"),
    ]
    assert list(map(str, table.rows[0][1])) == ["0.900 ± 0.000", "20.0 ± 0.0", "0.930 ± 0.014", "10.0 ± 0.0"]


@pytest.mark.parametrize("version", ["", ":3.0.2"])
def test_the_paper_s_auroc_is_beside_cifar_100(evaluation, version):
    evaluation["experiment"]["dataset"] = f"cifar10{version}"
    evaluation["methods"]["label_smoothing"] = evaluation["methods"].pop("ar_adals")
    for method in evaluation["methods"].values():
        for run in method["runs"].values():
            run["ood"] = {f"cifar100{version}": run["ood"]["photographs"]}
    table = tables.out_of_distribution(evaluation)
    assert table.columns[-1] == f"AUROC cifar100{version}, paper (WRN-28-10) ↑"
    assert {label: str(row[-1]) for label, row in table.rows} == {"Vanilla": "-", "Label smoothing": "0.832 ± 0.005"}


def test_confidence_minus_accuracy(evaluation):
    # The confidence is the accuracy and the ECE.
    gap = tables.more_metrics(evaluation).rows[1][1][0]
    assert str(gap) == "2.50 ± 0.71"


def test_ece_by_severity(evaluation):
    table = tables.ece_by_severity(evaluation)
    assert table.columns == ["clean", "severity 1", "severity 2", "mean of severities"]
    # severities of vanilla: (12 + 18) / 2 and (20 + 30) / 2
    assert [cell.mean for cell in table.rows[0][1]] == pytest.approx([5, 15, 25, 20])


def test_one_seed_has_no_deviation(evaluation):
    del evaluation["methods"]["vanilla"]["runs"]["1"]
    assert str(tables.results(evaluation).rows[0][1][1]) == "4.00"
    assert tables.seed_range(evaluation) == "1 to 2 seeds"
    del evaluation["methods"]["ar_adals"]
    assert tables.seed_range(evaluation) == "1 seed"
    assert tables.terminal_table(evaluation).splitlines()[-2] == "x100; one seed, so no standard deviation"


def test_what_is_missing_was_not_run(evaluation):
    for method in evaluation["methods"].values():
        method["variance"] = None
        for run in method["runs"].values():
            run["shift"], run["ood"] = {}, {}
    table = tables.results(evaluation)
    assert len(table.columns) == 8
    assert list(map(str, table.rows[0][1][3:5])) == ["not run", "not run"]
    severities = [str(cell) for cell in tables.ece_by_severity(evaluation).rows[0][1]]
    assert severities == ["5.00 ± 1.41", "not run", "not run", "not run"]


def test_a_cell_says_when_seeds_are_missing(evaluation):
    evaluation["methods"]["vanilla"]["runs"]["1"]["shift"] = {}
    assert str(tables.results(evaluation).rows[0][1][3]) == "16.00 (1 of 2 seeds)"


def test_a_value_that_is_missing_is_left_out_of_the_mean(evaluation):
    run = copy.deepcopy(evaluation["methods"]["vanilla"]["runs"]["0"])
    run["shift"]["blur"][1]["ece"] = None
    # severity 1 (8 + 16) / 2 = 12, severity 2 noise alone, 16
    assert tables.under_shift(run, "ece") == pytest.approx(0.14)


def test_terminal_table(evaluation):
    assert tables.terminal_table(evaluation) == "\n".join(
        [
            "Method        accuracy            ECE    its floor    ECE under shift    its floor",
            "--------  ------------  -------------  -----------  -----------------  -----------",
            "Vanilla   91.00 ± 1.41    5.00 ± 1.41  2.00 ± 0.00       20.00 ± 5.66  2.00 ± 0.00",
            "AR-AdaLS  91.00 ± 1.41  2.50 ± 0.71 °  2.00 ± 0.00       10.00 ± 2.83  2.00 ± 0.00",
            "x100; mean ± standard deviation over 2 seeds",
            "° not distinguishable from a perfectly calibrated network.",
            "2 types of shift, arada's simple shifts, at most 1,000 test images each; left out: fog",
        ]
    )


def test_every_mean_over_shifts_says_what_it_is_over(evaluation):
    said = "2 types (noise, blur), arada's simple shifts, at most 1,000 test images each, at severities 1, 2"
    makers = (tables.results, tables.calibrated, tables.ece_by_severity)
    assert [f"{said}; left out: fog." in make(evaluation).definition[0] for make in makers] == [True] * 3
    assert tables.out_of_distribution(evaluation).definition[0].endswith("Left out: paintings.")
    del evaluation["methods"]["vanilla"]["runs"]["1"]["shift"]["blur"]
    assert tables.shift_mean(evaluation).endswith("left out: fog; not comparable: Vanilla seed 1 has 1 type")
    evaluation["experiment"] |= {"shift_types": [], "shift_missing": {"fog": "no file"}}
    assert tables.shift_mean(evaluation) == "not run; left out: fog"


@pytest.mark.parametrize(
    ("experiment", "said"),
    [
        ({"shift_source": "published", "shift_cropped": True}, "published files, cropped once more"),
        ({"shift_source": "generated"}, "generated by arada with the published parameters"),
        ({"shift_source": "published", "shift_max_examples": 20}, "published files, at most 20 test images each"),
    ],
)
def test_shift_images(evaluation, experiment, said):
    of = evaluation["experiment"] | {"shift_cropped": False, "shift_max_examples": 0} | experiment
    assert tables.shift_images(of) == said
