"""The paper's Tables 1 to 5 for whatever data set a workdir holds, the paper's own numbers beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arada.reporting import definitions, names, paper, series
from arada.reporting.tables import (
    ECE,
    ECE_UNDER_SHIFT,
    NOTHING,
    Cell,
    Column,
    Table,
    Text,
    cells,
    mean_and_deviation,
    on_test,
    runs_of,
    shift_mean,
    spread,
    under_shift,
    unversioned,
)

# The methods of Tables 2, 3 and 4, in the paper's order; with "+", a calibrator applied to a method.
OF_TABLE_2 = (
    "vanilla",
    "vanilla+temperature",
    "label_smoothing",
    "adals",
    "ar_adals",
    "ar_adals_on_the_fly",
    "mixup",
    "ccat",
    "vanilla+ets",
    "ensemble_vanilla",
)
SINGLE = ("vanilla", "label_smoothing", "adals", "ar_adals")
ENSEMBLES = (*(f"ensemble_{name}" for name in SINGLE), "ar_adals_of_ensemble")
OF_TABLE_4 = ("vanilla", "label_smoothing", "vanilla+temperature", "ar_adals", "ar_adals_on_the_fly")


def build(evaluation: dict) -> dict[int, Table]:
    """The tables by the paper's numbers."""
    return {1: _table_1(evaluation), 2: _table_2(evaluation), 3: _table_3(evaluation), 4: _table_4(evaluation)} | {
        5: _table_5(evaluation)
    }


def _dataset(evaluation: dict) -> str:
    return unversioned(evaluation["experiment"]["dataset"])


def _table_1(evaluation: dict) -> Table:
    experiment = evaluation["experiment"]
    accuracy = cells(runs_of(evaluation, "vanilla"), [Column("", on_test("accuracy"), 100, 2)])
    row: list[Any] = [*(Text(experiment[field]) for field in ("dataset", "network")), *accuracy]
    headings = ["data set", "network", "accuracy x100 ↑"]
    if of_paper := paper.TABLE_1.get(_dataset(evaluation)):
        row += [Text(of_paper[0]), of_paper[1]]
        headings += ["network, paper", "accuracy x100, paper"]
    return Table(
        "table_1",
        "Table 1: network and accuracy",
        "The vanilla model that everything is compared with, and that ranks the images.",
        [f"Test set: {spread(evaluation)}.", definitions.paper(evaluation)],
        headings,
        [(names.label("vanilla"), row)],
    )


def _table_2(evaluation: dict) -> Table:
    quoted = paper.TABLE_2.get(_dataset(evaluation), {})
    definition = [
        f"ECE on the clean test set; {spread(evaluation)}. In the paper AR-AdaLS is ranked on the fly.",
        definitions.ece(evaluation),
        "Vanilla + ETS stands where the paper has Mix-n-Match, whose numbers (*) it quotes from Zhang et al. 2020: "
        "they are another estimate of the calibration error, by kernel densities, of a variant that is not named.",
        definitions.paper(evaluation),
    ]
    return _with_paper(
        evaluation,
        "table_2",
        "Table 2: calibration on the clean test set",
        "Which method is best calibrated where nothing has shifted?",
        definition,
        [ECE],
        OF_TABLE_2,
        paper.WRN,
        {system: (number,) for system, number in quoted.items()},
    )


def _table_3(evaluation: dict) -> Table:
    dataset = _dataset(evaluation)
    definition = [
        f"ECE, mean over types at each severity, then over severities: {shift_mean(evaluation)}; {spread(evaluation)}.",
        definitions.ece(evaluation),
        definitions.paper(evaluation),
    ]
    return _with_paper(
        evaluation,
        "table_3",
        "Table 3: calibration under shift",
        "Single methods first, then ensembles: who stays calibrated on corrupted images?",
        definition,
        [ECE_UNDER_SHIFT],
        (*SINGLE, *ENSEMBLES),
        paper.TABLE_3_NETWORK.get(dataset, ""),
        {system: (number,) for system, number in paper.TABLE_3.get(dataset, {}).items()},
    )


def _table_4(evaluation: dict) -> Table:
    columns = [
        Column("accuracy x100 ↑", on_test("accuracy"), 100, 2),
        Column("accuracy under shift x100 ↑", lambda run: under_shift(run, "accuracy"), 100, 2),
        ECE,
        ECE_UNDER_SHIFT,
    ]
    definition = [
        f"{spread(evaluation)}. Under shift: {shift_mean(evaluation)}.",
        definitions.ece(evaluation),
        definitions.paper(evaluation),
    ]
    return _with_paper(
        evaluation,
        "table_4",
        "Table 4: ranked beforehand or on the fly",
        "Does a ranking by the model as it trains do better than one by a vanilla model?",
        definition,
        columns,
        OF_TABLE_4,
        paper.WRN,
        paper.TABLE_4.get(_dataset(evaluation), {}),
    )


def _table_5(evaluation: dict) -> Table:
    dataset, experiment = _dataset(evaluation), evaluation["experiment"]
    severities = list(map(str, experiment["shift_severities"]))
    quoted = paper.TABLE_5.get(dataset, {})
    headings = ["clean ↓", *(f"severity {severity} ↓" for severity in severities), "mean of severities ↓"]
    if quoted:
        network = paper.TABLE_3_NETWORK[dataset]
        headings += [f"{of}, paper ({network})" for of in (*(f"severity {s}" for s in range(1, 6)), "mean")]
    rows = []
    for name in dict.fromkeys([*SINGLE, *evaluation["methods"]]):
        method = evaluation["methods"].get(name, {})
        values = series.shift_by_type(method, "variance") if method else None
        by_severity = [np.nan] * len(severities) if values is None else mean_and_deviation(values)[0]
        mean = float(mean_and_deviation(by_severity)[0]) if len(by_severity) else np.nan
        clean = series.on_test(method, "variance") if method else np.nan
        row: list[Any] = [_variance(value) for value in (clean, *by_severity, mean)]
        if quoted:
            of_paper = [paper.Quoted(value, digits=1 if value >= 10 else 2) for value in quoted.get(name, ())]
            row += of_paper or [NOTHING] * 6
        rows.append((names.label(name), row))
    return Table(
        "table_5",
        "Table 5: variance over runs",
        "How much a prediction depends on the seed, and how that grows with the shift.",
        [
            definitions.variance(evaluation) + " It takes two seeds or more, and is given x100.",
            f"Mean over types of shift: {shift_mean(evaluation)}.",
            definitions.paper(evaluation),
        ],
        headings,
        rows,
    )


def _variance(value: float) -> Cell:
    there = int(np.isfinite(value))
    return Cell(100 * value, np.nan, there, there, 3)


def _with_paper(
    evaluation: dict,
    name: str,
    title: str,
    caption: str,
    definition: list[str],
    columns: Sequence[Column],
    systems: Sequence[str],
    network: str,
    quoted: Mapping[str, Sequence[paper.Quoted]],
) -> Table:
    """A table of `systems`, run or not, each column followed by the paper's own where it has any."""
    headings: list[str] = []
    rows: list[tuple[str, list[Any]]] = []
    for column in columns:
        headings.append(column.heading)
        if quoted:
            headings.append(f"{column.heading.split(' x100')[0]}, paper ({network})")
    for system in systems:
        mine = cells(runs_of(evaluation, system), columns)
        of_paper = quoted.get(system, [NOTHING] * len(columns))
        pairs = zip(mine, of_paper, strict=True) if quoted else ((cell,) for cell in mine)
        rows.append((names.label(system), [cell for pair in pairs for cell in pair]))
    return Table(name, title, caption, definition, headings, rows)
