"""The tables of a report as data, plain text and Markdown. `evaluation` is what evaluation.json holds."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from arada.reporting import names

NOT_RUN = "not run"


class Cell(NamedTuple):
    """Mean over the seeds that have a value, and their standard deviation (n - 1), both in the column's unit."""

    mean: float
    deviation: float
    count: int
    seeds: int
    digits: int

    def __str__(self) -> str:
        if not self.count:
            return NOT_RUN
        spread = f" ± {self.deviation:.{self.digits}f}" if self.count > 1 else ""
        missing = f" ({self.count} of {self.seeds} seeds)" if self.count < self.seeds else ""
        return f"{self.mean:.{self.digits}f}{spread}{missing}"


class Table(NamedTuple):
    """Column headings without the first, which is the method, and for each method a label and its cells."""

    title: str
    note: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]


class Column(NamedTuple):
    """What a column shows: the value of one run, multiplied by `scale`."""

    heading: str
    value: Callable[[dict], float | None]
    scale: int
    digits: int


def mean_and_deviation(values: Sequence, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n - 1) of what is neither None nor NaN; NaN where nothing (or one value) is."""
    values = np.asarray(values, np.float64)
    present = np.isfinite(values)
    count = present.sum(axis=axis, keepdims=True)
    mean = np.where(present, values, 0).sum(axis=axis, keepdims=True) / np.where(count, count, np.nan)
    squares = np.where(present, (values - mean) ** 2, 0).sum(axis=axis, keepdims=True)
    deviation = np.sqrt(squares / np.where(count > 1, count - 1, np.nan))
    return mean.squeeze(axis), deviation.squeeze(axis)


def shift_values(run: dict, metric: str) -> np.ndarray:
    """A metric of one run on shifted data, float64[types, severities]; no rows if it was not evaluated."""
    by_type = [[(at or {}).get(metric) for at in severities] for severities in (run.get("shift") or {}).values()]
    return np.asarray(by_type, np.float64) if by_type else np.zeros((0, 0))


def under_shift(run: dict, metric: str, severity: int | None = None) -> float | None:
    """Mean over types of shift at one severity (an index), or of these means over all severities."""
    values = shift_values(run, metric)
    if not values.size:
        return None
    by_severity = mean_and_deviation(values)[0]
    return float(mean_and_deviation(by_severity)[0] if severity is None else by_severity[severity])


def seed_range(evaluation: dict) -> str:
    """How many seeds the methods have: "3 seeds", or "1 to 3 seeds" where they differ."""
    counts = sorted({len(method["runs"]) for method in evaluation["methods"].values()}) or [0]
    text = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return f"{text} seed{'' if counts[-1] == 1 else 's'}"


def _spread(evaluation: dict) -> str:
    seeds = seed_range(evaluation)
    return "one seed, so no standard deviation" if seeds == "1 seed" else f"mean ± standard deviation over {seeds}"


def _test(metric: str) -> Callable[[dict], float | None]:
    return lambda run: (run.get("test") or {}).get(metric)


def _out_of_distribution(name: str, key: str) -> Callable[[dict], float | None]:
    return lambda run: ((run.get("ood") or {}).get(name) or {}).get(key)


def _rows(runs_by_label: Mapping[str, dict], columns: list[Column]) -> list[tuple[str, list[Cell]]]:
    rows = []
    for label, runs in runs_by_label.items():
        cells = []
        for column in columns:
            values = np.asarray([column.value(run) for run in runs.values()], np.float64) * column.scale
            mean, deviation = mean_and_deviation(values)
            count = int(np.isfinite(values).sum())
            cells.append(Cell(float(mean), float(deviation), count, len(values), column.digits))
        rows.append((label, cells))
    return rows


def _table(evaluation: dict, title: str, note: str, columns: list[Column]) -> Table:
    runs = {names.style(name).label: method["runs"] for name, method in evaluation["methods"].items()}
    return Table(title, note, [column.heading for column in columns], _rows(runs, columns))


def results(evaluation: dict) -> Table:
    """Every method on the test set and under shift."""
    columns = [
        Column("accuracy x100 ↑", _test("accuracy"), 100, 2),
        Column("ECE x100 ↓", _test("ece"), 100, 2),
        Column("ECE under shift x100 ↓", lambda run: under_shift(run, "ece"), 100, 2),
        Column("NLL ↓", _test("nll"), 1, 3),
        Column("Brier ↓", _test("brier"), 1, 3),
        Column("ECE of equal mass x100 ↓", _test("ece_quantile"), 100, 2),
        Column("training accuracy x100", lambda run: run.get("train_accuracy"), 100, 2),
    ]
    note = (
        f"Test set: {_spread(evaluation)}. ↑ higher is better, ↓ lower is better. "
        "Shift: mean over types at each severity, then over severities. Training accuracy is that on the images as a "
        "method trains on them, augmented, mixed or attacked."
    )
    return _table(evaluation, "Results", note, columns)


def calibrated(evaluation: dict) -> Table:
    """Every method with each calibrator that was fitted on its validation predictions, below the method itself."""
    by_label = {}
    for name, method in evaluation["methods"].items():
        label, runs = names.style(name).label, method["runs"]
        by_label[label] = {seed: {"temperature": 1.0} | run for seed, run in runs.items()}
        for key in dict.fromkeys(key for run in runs.values() for key in run.get("calibrated") or {}):
            after = {seed: (run.get("calibrated") or {}).get(key) or {} for seed, run in runs.items()}
            by_label[f"{label} + {names.CALIBRATORS.get(key, key)}"] = after
    columns = [
        Column("accuracy x100 ↑", _test("accuracy"), 100, 2),
        Column("ECE x100 ↓", _test("ece"), 100, 2),
        Column("ECE under shift x100 ↓", lambda run: under_shift(run, "ece"), 100, 2),
        Column("NLL ↓", _test("nll"), 1, 3),
        Column("Brier ↓", _test("brier"), 1, 3),
        Column("ECE by KDE x100 ↓", _test("kde_ece"), 100, 2),
        Column("temperature", lambda run: run.get("temperature"), 1, 2),
    ]
    note = (
        f"Test set: {_spread(evaluation)}. Temperature scaling (Guo et al. 2017) and ETS (Mix-n-Match, Zhang et al. "
        "2020) are fitted on the validation predictions of each run. ECE by KDE is Mix-n-Match's estimate, not to be "
        "compared with the others."
    )
    return Table(
        "Calibrated on the validation set", note, [column.heading for column in columns], _rows(by_label, columns)
    )


def out_of_distribution(evaluation: dict) -> Table:
    """How well confidence and entropy tell images of another kind from the test set (section 5.5)."""
    runs = [run for method in evaluation["methods"].values() for run in method["runs"].values()]
    columns = [
        Column(f"AUROC {name} ({score}) ↑", _out_of_distribution(name, f"auroc_{score}"), 1, 3)
        for name in dict.fromkeys(name for run in runs for name in run.get("ood") or {})
        for score in ("confidence", "entropy")
    ]
    note = f"Images of another kind against the test set; {_spread(evaluation)}." if columns else NOT_RUN
    return _table(evaluation, "Out of distribution", note, columns)


def ece_by_severity(evaluation: dict) -> Table:
    """ECE on the clean test set and at each severity of shift, as the paper's Table 3 averages it."""
    severities = evaluation["experiment"].get("shift_severities") or []
    columns = [Column("clean", _test("ece"), 100, 2)]
    for index, severity in enumerate(severities):
        columns.append(Column(f"severity {severity}", lambda run, i=index: under_shift(run, "ece", i), 100, 2))
    columns.append(Column("mean of severities", lambda run: under_shift(run, "ece"), 100, 2))
    note = f"ECE x100, mean over types of shift; {_spread(evaluation)}."
    return _table(evaluation, "ECE by severity of shift", note, columns)


def variance(evaluation: dict) -> Table:
    """Variance over a method's runs, on the clean test set and under shift, as in the paper's Table 5."""
    rows = []
    for name, method in evaluation["methods"].items():
        of_method = method.get("variance") or {}
        by_type = np.asarray(list((of_method.get("shift") or {}).values()), np.float64)
        shifted = float(mean_and_deviation(mean_and_deviation(by_type)[0])[0]) if by_type.size else np.nan
        means = [100 * np.nan if of_method.get("test") is None else 100 * of_method["test"], 100 * shifted]
        cells = [Cell(mean, np.nan, int(np.isfinite(mean)), int(np.isfinite(mean)), 3) for mean in means]
        rows.append((names.style(name).label, cells))
    note = "Variance x100 of the predicted probability over a method's seeds; it takes two seeds or more."
    return Table("Variance over seeds", note, ["clean ↓", "under shift ↓"], rows)


def to_text(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text: the first column to the left, the others to the right."""
    lines = [list(headings), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    aligned.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(cells).rstrip() for cells in aligned)


def to_markdown(table: Table) -> str:
    """Markdown with heading, table and note."""
    lines = [["Method", *table.columns], ["---", *["---:"] * len(table.columns)]]
    lines += [[label, *map(str, cells)] for label, cells in table.rows]
    body = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return f"## {table.title}\n\n{body}\n\n{table.note}\n"


def terminal_table(evaluation: dict) -> str:
    """The three columns that matter most, as plain text for a terminal."""
    rows = [[label, *map(str, cells[:3])] for label, cells in results(names.in_order(evaluation)).rows]
    text = to_text(["Method", "accuracy", "ECE", "ECE under shift"], rows)
    return f"{text}\nx100; {_spread(evaluation)}"
