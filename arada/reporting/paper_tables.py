"""The paper's Tables 1 to 5 for the data set of a workdir, beside the paper's numbers."""

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
TABLE_2 = (
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
TABLE_4 = ("vanilla", "label_smoothing", "vanilla+temperature", "ar_adals", "ar_adals_on_the_fly")


def build(evaluation: dict) -> dict[int, Table]:
    """The tables by the paper's numbers."""
    builders = (_table_1, _table_2, _table_3, _table_4, _table_5)
    return {number: builder(evaluation) for number, builder in enumerate(builders, start=1)}


def _dataset(evaluation: dict) -> str:
    return unversioned(evaluation["experiment"]["dataset"])


def _table_1(evaluation: dict) -> Table:
    experiment = evaluation["experiment"]
    accuracy = cells(runs_of(evaluation, "vanilla"), [Column("", on_test("accuracy"), 100, 2)])
    row: list[Any] = [*(Text(experiment[field]) for field in ("dataset", "network")), *accuracy]
    headings = ["data set", "network", "accuracy x100 ↑"]
    if quoted := paper.TABLE_1.get(_dataset(evaluation)):
        row += [Text(quoted[0]), quoted[1]]
        headings += ["network, paper", "accuracy x100, paper"]
    return Table(
        "table_1",
        "Table 1: network and accuracy",
        "The vanilla model, which ranks the images and is the reference of all comparisons.",
        [f"Test set: {spread(evaluation)}.", definitions.paper(evaluation)],
        headings,
        [(names.label("vanilla"), row)],
    )


def _table_2(evaluation: dict) -> Table:
    quoted = paper.TABLE_2.get(_dataset(evaluation), {})
    definition = [
        f"ECE on the clean test set; {spread(evaluation)}. In the paper AR-AdaLS is ranked on the fly.",
        definitions.ece(evaluation),
        "Vanilla + ETS stands in the place of the paper's Mix-n-Match. The paper quotes its numbers (*) from Zhang et "
        "al. 2020: another estimate of the calibration error, by kernel densities, of an unnamed variant.",
        definitions.paper(evaluation),
    ]
    return _with_paper(
        evaluation,
        "table_2",
        "Table 2: calibration on the clean test set",
        "Which method is best calibrated without shift?",
        definition,
        [ECE],
        TABLE_2,
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
        "Which method stays calibrated on corrupted images? Single models first, then ensembles.",
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
        "Is a ranking by the model during its training better than a ranking by a vanilla model?",
        definition,
        columns,
        TABLE_4,
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
        headings += [f"{heading}, paper ({network})" for heading in (*(f"severity {s}" for s in range(1, 6)), "mean")]
    rows = []
    for name in dict.fromkeys([*SINGLE, *evaluation["methods"]]):
        method = evaluation["methods"].get(name, {})
        values = series.shift_by_type(method, "variance") if method else None
        by_severity = [np.nan] * len(severities) if values is None else mean_and_deviation(values)[0]
        mean = float(mean_and_deviation(by_severity)[0]) if len(by_severity) else np.nan
        clean = series.on_test(method, "variance") if method else np.nan
        row: list[Any] = [_variance(value) for value in (clean, *by_severity, mean)]
        if quoted:
            numbers = [paper.Quoted(value, digits=1 if value >= 10 else 2) for value in quoted.get(name, ())]
            row += numbers or [NOTHING] * 6
        rows.append((names.label(name), row))
    return Table(
        "table_5",
        "Table 5: variance over runs",
        "How much a prediction depends on the seed, and how that grows with the shift.",
        [
            definitions.variance(evaluation) + " It needs at least two seeds, and is given x100.",
            f"Mean over types of shift: {shift_mean(evaluation)}.",
            definitions.paper(evaluation),
        ],
        headings,
        rows,
    )


def _variance(value: float) -> Cell:
    count = int(np.isfinite(value))
    return Cell(100 * value, np.nan, count, count, 3)


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
    """A table of `systems`, run or not; each column is followed by the paper's if the paper has numbers."""
    headings: list[str] = []
    rows: list[tuple[str, list[Any]]] = []
    for column in columns:
        headings.append(column.heading)
        if quoted:
            headings.append(f"{column.heading.split(' x100')[0]}, paper ({network})")
    for system in systems:
        measured = cells(runs_of(evaluation, system), columns)
        numbers = quoted.get(system, [NOTHING] * len(columns))
        pairs = zip(measured, numbers, strict=True) if quoted else ((cell,) for cell in measured)
        rows.append((names.label(system), [cell for pair in pairs for cell in pair]))
    return Table(name, title, caption, definition, headings, rows)
